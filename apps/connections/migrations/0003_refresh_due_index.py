from django.db import migrations, models

from apps.lib.schema import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("connections", "0002_pages_and_primary")]

    operations = [
        AddIndexOnline(
            model_name="connection",
            index=models.Index(fields=["refresh_due_at"], name="connection_refresh_due"),
        ),
    ]
