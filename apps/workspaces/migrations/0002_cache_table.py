from django.core.management import call_command
from django.db import migrations


def create_table(apps, schema_editor):
    """The cache of installations without CACHE_URL; empty and harmless in the others."""
    call_command("createcachetable", "jackfield_cache", database=schema_editor.connection.alias, verbosity=0)


class Migration(migrations.Migration):
    dependencies = [("workspaces", "0001_initial")]
    operations = [
        migrations.RunPython(
            create_table, lambda apps, schema_editor: schema_editor.execute("DROP TABLE jackfield_cache")
        )
    ]
