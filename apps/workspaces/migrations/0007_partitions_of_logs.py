from django.db import migrations

from apps.lib.schema import PartitionLog
from apps.workspaces.retention import audit_days_ahead, days_ahead


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("workspaces", "0006_days_of_logs")]

    operations = [
        PartitionLog("AuditEvent", audit_days_ahead),
        PartitionLog("WebhookDelivery", days_ahead),
    ]
