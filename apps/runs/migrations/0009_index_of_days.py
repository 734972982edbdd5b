from typing import Any

from django.db import migrations, models

from apps.lib.schema import AddIndexOnline, drop_like_indexes


def drop_unused(apps: Any, schema_editor: Any) -> None:
    """Ids are compared as they are, never by LIKE; each of these costs at every change of a run."""
    drop_like_indexes(apps.get_model("runs", "Run")._meta.db_table)


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("runs", "0008_partitions_of_logs")]

    operations = [
        AddIndexOnline(model_name="run", index=models.Index(fields=["forget_on"], name="run_to_forget")),
        migrations.RunPython(drop_unused, migrations.RunPython.noop),
    ]
