"""The form that enables a toolkit for a project: made from the toolkit's file."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminPasswordWidget,
    UnfoldAdminTextInputWidget,
)

from apps.lib.errors import Failure
from apps.lib.vault import VaultError
from apps.toolkits.spec import Toolkit

from .access import platform_client
from .admin_catalog import scopes_of
from .forms import matches
from .models import Integration

URL_LABELS = {
    "base_url": "Base URL",
    "authorization_url": "Authorization URL",
    "token_url": "Token URL",
    "refresh_url": "Refresh URL",
    "revocation_url": "Revocation URL",
    "request_token_url": "Request token URL",
}
VARIABLE = "variable_"


def has_secret(integration: Integration) -> bool:
    try:
        return bool(integration.unseal("client_secret"))
    except VaultError:
        return False


class IntegrationForm(forms.Form):
    """What an admin says of a toolkit in a project. The client's secret is written, never read back."""

    display_name = forms.CharField(max_length=100, widget=UnfoldAdminTextInputWidget)
    client_id = forms.CharField(
        label="OAuth client id",
        required=False,
        max_length=500,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
    )
    client_secret = forms.CharField(
        label="OAuth client secret",
        required=False,
        max_length=5000,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
    )
    scopes = forms.MultipleChoiceField(required=False, widget=UnfoldAdminCheckboxSelectMultipleWidget)
    more_scopes = forms.CharField(
        label="Further scopes",
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Separated by blanks; for scopes that the list above does not have.",
    )

    def __init__(self, toolkit: Toolkit, integration: Integration | None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.toolkit = toolkit
        self.integration = integration
        self.fields["display_name"].initial = (integration and integration.display_name) or toolkit.name
        self._client_fields()
        self._scope_fields()
        self._variable_fields()
        self._url_fields()

    def _client_fields(self) -> None:
        if not self.toolkit.needs_client:
            del self.fields["client_id"], self.fields["client_secret"]
            return
        row = self.integration
        self.fields["client_id"].initial = row.client_id if row else ""
        if platform_client(self.toolkit.slug) is not None:
            self.fields["client_id"].help_text = "Empty: the installation's own client is used."
        kept = row is not None and has_secret(row)
        self.fields["client_secret"].help_text = "Set. Leave empty to keep it." if kept else "Not set."

    def _scope_fields(self) -> None:
        known = scopes_of(self.toolkit)
        if not known:
            del self.fields["scopes"], self.fields["more_scopes"]
            return
        self.defaults = [scope for scope, _, default in known if default]
        chosen = (self.integration.scopes if self.integration else []) or self.defaults
        names = [scope for scope, _, _ in known]
        self.fields["scopes"].choices = [  # type: ignore[attr-defined]
            (scope, f"{scope}: {meaning}" if meaning else scope) for scope, meaning, _ in known
        ]
        self.fields["scopes"].initial = [scope for scope in chosen if scope in names]
        self.fields["more_scopes"].initial = " ".join(scope for scope in chosen if scope not in names)

    def _variable_fields(self) -> None:
        stored = self.integration.settings.get("variables", {}) if self.integration else {}
        for name, variable in self.toolkit.variables.items():
            if variable.source == "integration":
                self.fields[VARIABLE + name] = forms.CharField(
                    validators=[matches(variable.pattern)] if variable.pattern else [],
                    label=variable.title,
                    help_text=variable.description,
                    initial=stored.get(name, variable.default or ""),
                    required=variable.default is None,
                    widget=UnfoldAdminTextInputWidget(),
                )

    def _url_fields(self) -> None:
        stored = self.integration.settings if self.integration else {}
        for name in Integration.URL_SETTINGS:
            own = self._own_url(name)
            if own is not None:
                self.fields[name] = forms.CharField(
                    label=URL_LABELS[name],
                    required=False,
                    initial=stored.get(name, ""),
                    widget=UnfoldAdminTextInputWidget(attrs={"placeholder": own}),
                )

    def _own_url(self, name: str) -> str | None:
        """The toolkit's own value of a URL that may be overridden; None where it has no use for it."""
        if name == "base_url":
            return self.toolkit.base_url
        for scheme in self.toolkit.auth:
            if name in type(scheme).model_fields:
                return getattr(scheme, name) or ""
        return None

    @property
    def main_fields(self) -> list[Any]:
        advanced = {field.name for field in self.advanced_fields}
        return [field for field in self if field.name not in advanced]

    @property
    def advanced_fields(self) -> list[Any]:
        return [self[name] for name in Integration.URL_SETTINGS if name in self.fields]

    def values(self) -> dict[str, Any]:
        """The arguments of `integrations.configure`."""
        data = self.cleaned_data
        found: dict[str, Any] = {"display_name": data["display_name"], "overrides": self._overrides()}
        if "client_id" in self.fields:
            found["client_id"] = data["client_id"].strip()
            # An empty field keeps the secret, but not that of another client.
            changed = self.integration is not None and self.integration.client_id != found["client_id"]
            found["client_secret"] = data["client_secret"].strip() or ("" if changed else None)
        if "scopes" in self.fields:
            chosen = [*data["scopes"], *data["more_scopes"].split()]
            found["scopes"] = [] if set(chosen) == set(self.defaults) else list(dict.fromkeys(chosen))
        return found

    def _overrides(self) -> dict[str, Any]:
        kept = dict(self.integration.settings) if self.integration else {}
        for name in Integration.URL_SETTINGS:
            kept.pop(name, None)
        kept |= {name: self.cleaned_data[name] for name in Integration.URL_SETTINGS if self.cleaned_data.get(name)}
        variables = {
            name.removeprefix(VARIABLE): value
            for name, value in self.cleaned_data.items()
            if name.startswith(VARIABLE) and value
        }
        for name in ("variables", "config"):
            kept.pop(name, None)
        return kept | ({"variables": variables} if variables else {})

    def refuse(self, failure: Failure) -> None:
        """Puts what the service said at the fields: it names overrides ``settings.<name>``."""
        faults = failure.details if isinstance(failure.details, dict) else {}
        for name, texts in faults.items():
            field = name.removeprefix("settings.")
            self.add_error(field if field in self.fields else None, texts)
        if not faults:
            self.add_error(None, f"{failure.text} {failure.advice}")


class TestConnectForm(forms.Form):
    """For whom to connect an account when trying an integration out; for nobody: the shared account."""

    user_id = forms.CharField(
        label="End user id",
        max_length=255,
        initial="test-user",
        required=False,
        help_text="Empty: the shared account, which calls for nobody use.",
        widget=UnfoldAdminTextInputWidget(),
    )
