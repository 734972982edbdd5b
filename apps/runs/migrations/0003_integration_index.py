from django.db import migrations, models

from apps.lib.schema import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("runs", "0002_surfaces")]

    operations = [
        AddIndexOnline(
            model_name="execution",
            index=models.Index(fields=["integration_id", "created_at"], name="execution_of_integration"),
        ),
    ]
