from django.db import migrations, models

from apps.lib.schema import AddIndexOnline

WAITING = models.Q(("next_try_at__isnull", False))


class Migration(migrations.Migration):
    """Of deliveries that have something to do; conditions without values, which SQLite too finds in a query."""

    atomic = False

    dependencies = [("runs", "0011_job_runs_to_look_at")]

    operations = [
        AddIndexOnline(
            model_name="delivery",
            index=models.Index(condition=WAITING, fields=["next_try_at"], name="sink_delivery_waiting"),
        ),
        AddIndexOnline(
            model_name="delivery",
            index=models.Index(
                condition=WAITING, fields=["project", "host", "next_try_at"], name="sink_delivery_receiver"
            ),
        ),
        AddIndexOnline(
            model_name="delivery",
            index=models.Index(
                condition=models.Q(("lease_until__isnull", False)), fields=["project"], name="sink_delivery_carried"
            ),
        ),
        migrations.RemoveIndex(model_name="delivery", name="sink_delivery_due"),
    ]
