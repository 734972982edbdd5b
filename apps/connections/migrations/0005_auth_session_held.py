from django.db import migrations, models

from apps.lib.schema import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("connections", "0004_auth_sessions")]

    operations = [
        AddIndexOnline(
            model_name="authsession",
            index=models.Index(
                condition=models.Q(("held_at__isnull", False)), fields=["held_at"], name="auth_session_held"
            ),
        ),
    ]
