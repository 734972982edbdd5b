from django.db import migrations, models

from apps.lib.schema import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("runs", "0005_jobs_and_sinks")]

    operations = [
        AddIndexOnline(
            model_name="run",
            index=models.Index(
                condition=models.Q(("job_run__isnull", False)), fields=["job_run", "status"], name="run_of_job_run"
            ),
        ),
    ]
