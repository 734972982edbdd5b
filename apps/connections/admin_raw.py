"""The form of an integration that is no toolkit's primary one: made over the Raw execute API, changed here."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from apps.lib.api import parse_json
from apps.lib.errors import Failure, InvalidInput
from apps.toolkits.spec import CredentialField, Toolkit

from . import raw
from .models import Integration

CREDENTIAL = "credential_"


class RawIntegrationForm(forms.Form):
    """Name, configuration and new credentials. Those that are there are never read back."""

    display_name = forms.CharField(label="Name", max_length=100, widget=UnfoldAdminTextInputWidget)
    config = forms.CharField(
        label="Configuration",
        help_text="JSON: baseUrl, auth, headers, and whatever its callers keep there. Neither encrypted nor hidden: no secrets.",
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 14, "spellcheck": "false"}),
    )

    def __init__(self, integration: Integration, toolkit: Toolkit | None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["display_name"].initial = str(integration)
        self.fields["config"].initial = json.dumps(raw.config_of(integration), indent=2, ensure_ascii=False)
        for spec in credential_fields(toolkit):
            widget = UnfoldAdminPasswordWidget if spec.secret else UnfoldAdminTextInputWidget
            self.fields[CREDENTIAL + spec.name] = forms.CharField(
                label=f"New {spec.title[:1].lower()}{spec.title[1:]}",
                required=False,
                strip=False,
                max_length=8000,
                help_text="Leave empty to keep what is there.",
                widget=widget(attrs={"autocomplete": "new-password" if spec.secret else "off"}),
            )

    def clean_config(self) -> dict[str, Any]:
        try:
            found = parse_json(self.cleaned_data["config"].encode())
        except (InvalidInput, UnicodeEncodeError) as error:
            said = error.details["body"] if isinstance(error, InvalidInput) and error.details else ["This is no text."]
            raise forms.ValidationError(said) from None
        if not isinstance(found, dict):
            raise forms.ValidationError("Must be a JSON object.")
        return found

    def values(self) -> dict[str, Any]:
        """The arguments of `raw.update`."""
        data = self.cleaned_data
        typed = {name.removeprefix(CREDENTIAL): data[name] for name in self.fields if name.startswith(CREDENTIAL)}
        credentials = {name: value for name, value in typed.items() if value}
        return {"name": data["display_name"], "config": data["config"], "credentials": credentials}

    def refuse(self, failure: Failure) -> None:
        """Puts what the service said at the fields, with the members of the configuration that it names."""
        faults = failure.details if isinstance(failure.details, dict) else {}
        for place, texts in faults.items():
            head, _, member = place.partition(".")
            field = head if head in self.fields else None
            self.add_error(field, [f"{member}: {text}" if member else text for text in texts])
        if not faults:
            self.add_error(None, f"{failure.text} {failure.advice}")


def credential_fields(toolkit: Toolkit | None) -> list[CredentialField]:
    """What a credential that is no person's consists of: the fields of every scheme, or OAuth's token."""
    found: dict[str, CredentialField] = {}
    for scheme in toolkit.auth if toolkit else ():
        for spec in getattr(scheme, "fields", ()):
            found.setdefault(spec.name, spec)
    if not found and toolkit and "oauth2" in toolkit.auth_by_type:
        found["access_token"] = CredentialField(name="access_token", title="Access token")
    return list(found.values())
