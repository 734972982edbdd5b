from django.db import migrations, models

from apps.lib.partitions import UNKNOWN
from apps.lib.schema import AddFieldInPlace


class Migration(migrations.Migration):
    dependencies = [("runs", "0006_index_of_job_runs"), ("workspaces", "0006_days_of_logs")]

    operations = [
        AddFieldInPlace(
            model_name="execution",
            name="forget_on",
            field=models.DateField(db_default=UNKNOWN, default=UNKNOWN, editable=False),
        ),
        AddFieldInPlace(
            model_name="run",
            name="forget_on",
            field=models.DateField(db_default=UNKNOWN, default=UNKNOWN, editable=False),
        ),
        AddFieldInPlace(
            model_name="runevent",
            name="forget_on",
            field=models.DateField(db_default=UNKNOWN, default=UNKNOWN, editable=False),
        ),
        AddFieldInPlace(
            model_name="runfile",
            name="forget_on",
            field=models.DateField(db_default=UNKNOWN, default=UNKNOWN, editable=False),
        ),
        AddFieldInPlace(
            model_name="delivery",
            name="forget_on",
            field=models.DateField(db_default=UNKNOWN, default=UNKNOWN, editable=False),
        ),
    ]
