from django.db import migrations, models

from apps.lib.partitions import UNKNOWN
from apps.lib.schema import AddFieldInPlace


class Migration(migrations.Migration):
    dependencies = [("workspaces", "0005_notice_mails")]

    operations = [
        AddFieldInPlace(
            model_name="auditevent",
            name="forget_on",
            field=models.DateField(db_default=UNKNOWN, default=UNKNOWN, editable=False),
        ),
        AddFieldInPlace(
            model_name="webhookdelivery",
            name="forget_on",
            field=models.DateField(db_default=UNKNOWN, default=UNKNOWN, editable=False),
        ),
    ]
