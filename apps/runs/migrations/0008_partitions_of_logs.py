from django.db import migrations

from apps.lib.schema import PartitionLog
from apps.workspaces.retention import days_ahead


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("runs", "0007_days_of_logs"), ("workspaces", "0007_partitions_of_logs")]

    operations = [
        PartitionLog("Execution", days_ahead),
        PartitionLog("RunEvent", days_ahead),
        PartitionLog("RunFile", days_ahead),
        PartitionLog("Delivery", days_ahead),
    ]
