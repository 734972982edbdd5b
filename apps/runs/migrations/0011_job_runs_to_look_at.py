from django.db import migrations, models

from apps.lib.schema import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("runs", "0010_name_of_sink_settings")]

    operations = [
        AddIndexOnline(
            model_name="jobrun",
            index=models.Index(
                condition=models.Q(("wake_at__isnull", False)), fields=["wake_at"], name="job_run_to_look_at"
            ),
        ),
        AddIndexOnline(
            model_name="jobrun",
            index=models.Index(
                condition=models.Q(("status__in", ("PENDING", "PAUSING", "PAUSED"))),
                fields=["job"],
                name="job_run_living",
            ),
        ),
        migrations.RemoveIndex(model_name="jobrun", name="job_run_due"),
    ]
