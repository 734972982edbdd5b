from django.db import migrations, models


class Migration(migrations.Migration):
    """Each toolkit has auth sessions of its own, for a project may switch from one to another and back."""

    dependencies = [("connections", "0005_auth_session_held")]

    operations = [
        migrations.AddConstraint(
            model_name="authsession",
            constraint=models.UniqueConstraint(fields=["project", "toolkit", "name"], name="auth_session_of_toolkit"),
        ),
        migrations.RemoveConstraint(model_name="authsession", name="auth_session_in_project"),
    ]
