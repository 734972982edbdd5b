"""Every setting, from the environment. With none given this is the embedded mode: SQLite and keys under ``var/``.

``DATABASE_URL`` switches to production, where keys, broker and hosts must be given; ``manage.py check`` says what is missing
(`apps.workspaces.checks`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environ
from django.templatetags.static import static
from django.urls import reverse_lazy

from config import environment

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()

JACKFIELD_HOME = Path(os.environ.get("JACKFIELD_HOME", BASE_DIR / "var")).resolve()
DATABASE_URL = environment.secret("DATABASE_URL")
JACKFIELD_ENV = os.environ.get("JACKFIELD_ENV") or ("production" if DATABASE_URL else "development")
PRODUCTION = JACKFIELD_ENV == "production"
TESTING = JACKFIELD_ENV == "test"
DEBUG = False

# -- Keys ------------------------------------------------------------------------------------------------------------
SECRET_KEY = environment.secret("JACKFIELD_SECRET_KEY")
JACKFIELD_ENCRYPTION_KEYS = environment.secret("JACKFIELD_ENCRYPTION_KEYS")
# Where the keys lie in a file, it is read again when it changes (`apps.lib.vault`).
JACKFIELD_ENCRYPTION_KEYS_PATH = environment.secret_path("JACKFIELD_ENCRYPTION_KEYS")
if not PRODUCTION:
    SECRET_KEY = SECRET_KEY or environment.kept_in_file(JACKFIELD_HOME / "secret_key", environment.new_secret_key)
    if not JACKFIELD_ENCRYPTION_KEYS:
        _kept = JACKFIELD_HOME / "encryption_keys"
        JACKFIELD_ENCRYPTION_KEYS = environment.kept_in_file(_kept, environment.new_encryption_keys)
        JACKFIELD_ENCRYPTION_KEYS_PATH = "" if TESTING else str(_kept)  # tests set the keys themselves

# -- Where we are ----------------------------------------------------------------------------------------------------
JACKFIELD_URL = os.environ.get("JACKFIELD_URL", "http://127.0.0.1:8000").rstrip("/")
_own = urlsplit(JACKFIELD_URL)
HTTPS = _own.scheme == "https"
ALLOWED_HOSTS = environment.listed("JACKFIELD_ALLOWED_HOSTS") or [
    host for host in {_own.hostname or "", "127.0.0.1", "localhost", "[::1]"} if host and not PRODUCTION
]
CSRF_TRUSTED_ORIGINS = [JACKFIELD_URL]
JACKFIELD_TRUSTED_PROXIES = int(os.environ.get("JACKFIELD_TRUSTED_PROXIES", "0") or 0)
JACKFIELD_EGRESS_ALLOW = os.environ.get("JACKFIELD_EGRESS_ALLOW", "")
JACKFIELD_TOOLKITS_DIR = [
    folder for folder in os.environ.get("JACKFIELD_TOOLKITS_DIR", "").split(os.pathsep) if folder.strip()
]
# Platform-wide OAuth clients, for projects without their own: JACKFIELD_CLIENT_GITHUB="id:secret"
JACKFIELD_PLATFORM_CLIENTS = {
    name.removeprefix("JACKFIELD_CLIENT_").removesuffix("_FILE").lower().replace("_", "-"): environment.secret(
        name.removesuffix("_FILE")
    )
    for name in os.environ
    if name.startswith("JACKFIELD_CLIENT_")
}
JACKFIELD_SANDBOX = env.bool("JACKFIELD_SANDBOX", default=not PRODUCTION)

# -- Apps ------------------------------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "apps.lib",
    "apps.workspaces",
    "apps.toolkits",
    "apps.connections",
    "apps.modules",
    "apps.runs",
    "unfold.apps.BasicAppConfig",
    "unfold.contrib.filters",
    "apps.workspaces.admin_config.JackfieldAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "allauth.mfa",
    "allauth.idp.oidc",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "csp",
]
MIDDLEWARE = [
    "apps.lib.api.RequestIdMiddleware",
    "apps.lib.surfaces.ApiMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# -- Data ------------------------------------------------------------------------------------------------------------
if DATABASE_URL:
    DATABASES: dict[str, Any] = {"default": env.db_url_config(DATABASE_URL)}
else:
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(JACKFIELD_HOME / "jackfield.sqlite3")}}
# The first one counts for a new file alone, and only before anything is in it.
SQLITE_START = "PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
_database = DATABASES["default"]
_options = _database.setdefault("OPTIONS", {})
if "sqlite" in _database["ENGINE"]:
    # A deferred transaction that turns to writing fails at once where another one writes; an immediate one waits.
    _options |= {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": SQLITE_START,
    }
else:
    _database["DISABLE_SERVER_SIDE_CURSORS"] = True  # PgBouncer in transaction mode
    _options["prepare_threshold"] = 5  # concerns apps.lib.db.Prepared alone: Django's own cursors prepare nothing
    _pool = int(os.environ.get("JACKFIELD_DB_POOL", "0" if TESTING else "16"))
    if _pool:
        _options["pool"] = {"min_size": 1, "max_size": _pool, "timeout": 20}
    # A pool needs connections to be given back; without one each thread keeps its own.
    _database["CONN_MAX_AGE"] = 0 if _pool or TESTING else None
    _database["CONN_HEALTH_CHECKS"] = not _pool
JACKFIELD_DB_PREPARE = env.bool("JACKFIELD_DB_PREPARE", default=True)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_USER_MODEL = "workspaces.User"

CACHE_URL = environment.secret("CACHE_URL")
if CACHE_URL:
    CACHES: dict[str, Any] = {"default": env.cache_url_config(CACHE_URL)}
elif TESTING:
    CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
else:  # shared by every process, which the memory of one is not
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.db.DatabaseCache",
            "LOCATION": "jackfield_cache",
            # Beyond so many a third is thrown away, living ones too: counters of failed sign-ins, used codes.
            "OPTIONS": {"MAX_ENTRIES": 100_000},
        }
    }

# -- Background work -------------------------------------------------------------------------------------------------
CELERY_BROKER_URL = environment.secret("CELERY_BROKER_URL")
if not CELERY_BROKER_URL:
    CELERY_BROKER_URL = "memory://" if TESTING else "filesystem://localhost"
    _broker = JACKFIELD_HOME / "broker"
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": str(_broker / "queue"),
        "data_folder_out": str(_broker / "queue"),
        "control_folder": str(_broker / "control"),
        "polling_interval": 0.1,
    }
elif CELERY_BROKER_URL.startswith("redis"):
    # A Redis that takes connections and answers nothing would else hold whoever hands it a hint for ever.
    CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_timeout": 3.0, "socket_connect_timeout": 3.0}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "maintenance"
CELERY_TASK_ROUTES = {
    "connections.keep_alive": {"queue": "refresh"},
    "connections.refresh_ahead": {"queue": "refresh"},
    "workspaces.deliver": {"queue": "deliveries"},
    "runs.deliver": {"queue": "deliveries"},
    "runs.carry": {"queue": "runs"},  # and "steps" where the run had begun (`apps.runs.hints`)
    "runs.advance_job": {"queue": "steps"},
}
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BEAT_SCHEDULE_FILENAME = str(JACKFIELD_HOME / "beat-schedule")
with suppress(OSError):  # the scheduler makes no folder for its file; other processes need none
    JACKFIELD_HOME.mkdir(mode=0o700, parents=True, exist_ok=True)
CELERY_BEAT_SCHEDULE = {
    "forget what has expired": {"task": "connections.forget_expired", "schedule": 600.0},
    "forget old executions": {"task": "runs.forget_old", "schedule": 3600.0},
    # Those that wait longer than until the next one (the workers were stopped) are thrown away, not worked off.
    "keep connections alive": {"task": "connections.keep_alive", "schedule": 30.0, "options": {"expires": 30.0}},
    "take up auth operations": {"task": "connections.sweep_auth", "schedule": 10.0, "options": {"expires": 10}},
    "forget workspaces' leftovers": {"task": "workspaces.forget_expired", "schedule": 600.0},
    "take up runs that are due": {"task": "runs.sweep", "schedule": 5.0, "options": {"expires": 10}},
    "send results that are due": {"task": "runs.sweep_deliveries", "schedule": 5.0, "options": {"expires": 10}},
    "send events that are due": {"task": "workspaces.sweep_deliveries", "schedule": 5.0, "options": {"expires": 10}},
    "tell of failures that are due": {"task": "workspaces.sweep_notices", "schedule": 10.0, "options": {"expires": 10}},
}
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
# Seconds after which a run whose worker has died is taken up by another one.
JACKFIELD_RUN_LEASE_SECONDS = float(os.environ.get("JACKFIELD_RUN_LEASE_SECONDS", "30"))

# -- Execution log ---------------------------------------------------------------------------------------------------
JACKFIELD_LOG_FLUSH_SECONDS = 0.5  # a kill -9 loses at most this much of the execution log
JACKFIELD_LOG_BACKGROUND = not TESTING
# Seconds for which neither side of a proxied stream may send a byte; a toolkit's longer timeout goes before.
JACKFIELD_STREAM_IDLE_SECONDS = float(os.environ.get("JACKFIELD_STREAM_IDLE_SECONDS", "60"))
JACKFIELD_EXECUTION_DAYS = int(os.environ.get("JACKFIELD_EXECUTION_DAYS", "30"))
JACKFIELD_AUDIT_DAYS = int(os.environ.get("JACKFIELD_AUDIT_DAYS", "365"))

# -- People ----------------------------------------------------------------------------------------------------------
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
if TESTING:  # a real one takes 0.2 s a password
    PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/admin/"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*", "password2*"]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_ADAPTER = "apps.workspaces.accounts.AccountAdapter"
ACCOUNT_LOGOUT_ON_GET = False
ACCOUNT_LOGOUT_REDIRECT_URL = "account_login"
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_EMAIL_UNKNOWN_ACCOUNTS = False  # nobody gets mail because somebody else typed an address
MFA_ADAPTER = "apps.workspaces.accounts.MfaAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_TOTP_ISSUER = "Jackfield"
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = not HTTPS and not PRODUCTION
IDP_OIDC_ADAPTER = "apps.workspaces.accounts.SandboxAdapter"
IDP_OIDC_PRIVATE_KEY = (
    environment.kept_in_file(JACKFIELD_HOME / "sandbox_key.pem", environment.new_rsa_key) if JACKFIELD_SANDBOX else ""
)
IDP_OIDC_ROTATE_REFRESH_TOKEN = True
DEFAULT_FROM_EMAIL = os.environ.get("JACKFIELD_EMAIL_FROM", "jackfield@localhost")
EMAIL_CONFIG = env.email_url("EMAIL_URL", default="consolemail://")
vars().update(EMAIL_CONFIG)

# -- Single sign-on: an OpenID Connect issuer by environment; admins may add more -------------------------------------
JACKFIELD_OIDC_ISSUER = os.environ.get("JACKFIELD_OIDC_ISSUER", "").rstrip("/")
SOCIALACCOUNT_ADAPTER = "apps.workspaces.accounts.SingleSignOnAdapter"
SOCIALACCOUNT_EMAIL_AUTHENTICATION = True
SOCIALACCOUNT_EMAIL_AUTHENTICATION_AUTO_CONNECT = True
SOCIALACCOUNT_PROVIDERS = {"openid_connect": {"OAUTH_PKCE_ENABLED": True, "APPS": []}}
if JACKFIELD_OIDC_ISSUER:
    SOCIALACCOUNT_PROVIDERS["openid_connect"]["APPS"] = [
        {
            "provider_id": "sso",
            "name": os.environ.get("JACKFIELD_OIDC_NAME") or "single sign-on",
            "client_id": os.environ.get("JACKFIELD_OIDC_CLIENT_ID", ""),
            "secret": environment.secret("JACKFIELD_OIDC_CLIENT_SECRET"),
            "settings": {
                "server_url": JACKFIELD_OIDC_ISSUER,
                # Who signs in without being invited becomes a member of this workspace (its id or name), in this role.
                "workspace": os.environ.get("JACKFIELD_OIDC_WORKSPACE", ""),
                "role": os.environ.get("JACKFIELD_OIDC_ROLE", "viewer"),
            },
        }
    ]

# -- Pages -----------------------------------------------------------------------------------------------------------
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English")]  # else the libraries' texts follow the browser and ours do not
LOCALE_PATHS = [BASE_DIR / "locale"]  # of end users' pages alone (`apps.lib.language`)
USE_TZ = True
FORMAT_MODULE_PATH = ["config.formats"]
TIME_ZONE = "UTC"
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True  # no build step: files are served from where they are
WHITENOISE_AUTOREFRESH = False

# -- Security --------------------------------------------------------------------------------------------------------
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
SECURE_SSL_REDIRECT = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$"]
if JACKFIELD_TRUSTED_PROXIES:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
X_FRAME_OPTIONS = "DENY"
CSRF_FAILURE_VIEW = "apps.lib.language.csrf_failure"
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024
# No form-action: browsers hold it against every redirect after a form, and connecting an account is one.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "https:", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
}


# -- Admin -----------------------------------------------------------------------------------------------------------
def _link(title: str, icon: str, name: str, permission: str = "is_member", but: str = "/-/") -> dict[str, Any]:
    """An entry of the sidebar; marked on the pages below its own, those with ``but`` in their path excepted."""
    address = reverse_lazy(f"admin:{name}")
    return {
        "title": title,
        "icon": icon,
        "link": address,
        "active": lambda request: (
            request.path == str(address)
            or (name != "index" and request.path.startswith(str(address)) and but not in request.path)
        ),
        "permission": f"apps.workspaces.admin_base.{permission}",
    }


UNFOLD = {
    "SITE_TITLE": "Jackfield",
    "SITE_HEADER": "Jackfield",
    "SITE_ICON": lambda request: static("admin-jackfield/mark.svg"),
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("admin-jackfield/mark.svg")}
    ],
    "SITE_URL": None,
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "DASHBOARD_CALLBACK": "apps.runs.admin_overview.overview",
    "STYLES": [lambda request: static("admin-jackfield/jackfield.css")],
    "SCRIPTS": [lambda request: static("admin-jackfield/jackfield.js")],
    "ACCOUNT": {"navigation": [{"title": "Account and security", "link": reverse_lazy("mfa_index")}]},
    "COLORS": {
        "primary": {
            "50": "#eef2ff",
            "100": "#e0e7ff",
            "200": "#c7d2fe",
            "300": "#a5b4fc",
            "400": "#818cf8",
            "500": "#6366f1",
            "600": "#4f46e5",
            "700": "#4338ca",
            "800": "#3730a3",
            "900": "#312e81",
            "950": "#1e1b4b",
        }
    },
    "SIDEBAR": {
        "show_search": False,
        "navigation": [
            {"items": [_link("Overview", "home", "index")]},
            {
                "title": "Build",
                "items": [
                    _link("Modules", "account_tree", "modules_module_changelist"),
                    _link("Jobs", "event_repeat", "runs_job_changelist"),
                    _link("Toolkits", "apps", "connections_integration_catalog"),
                    _link("Own toolkits", "build", "toolkits_owntoolkit_changelist"),
                    _link("Integrations", "extension", "connections_integration_changelist", but="/catalog/"),
                    _link("Connections", "cable", "connections_connection_changelist"),
                    _link("Auth sessions", "passkey", "connections_authsession_changelist"),
                    _link("Webhooks", "webhook", "workspaces_webhookendpoint_changelist"),
                    _link("Notifications", "notifications", "workspaces_notificationrule_changelist"),
                    _link("Try a tool", "bolt", "runs_execution_try", "is_editor"),
                ],
            },
            {
                "title": "Observe",
                "items": [
                    _link("Runs", "play_circle", "runs_run_changelist"),
                    _link("Job runs", "checklist", "runs_jobrun_changelist"),
                    _link("Tasks", "how_to_reg", "runs_humantask_changelist"),
                    _link("Executions", "list_alt", "runs_execution_changelist", but="/try/"),
                    _link("Deliveries", "send", "workspaces_webhookdelivery_changelist"),
                    _link("Results sent", "outbox", "runs_delivery_changelist"),
                    _link("Audit log", "history", "workspaces_auditevent_changelist"),
                ],
            },
            {
                "title": "Access",
                "items": [
                    _link("Workspaces", "domain", "workspaces_workspace_changelist"),
                    _link("Projects", "folder", "workspaces_project_changelist"),
                    _link("Members", "group", "workspaces_membership_changelist"),
                    _link("Groups", "groups", "modules_group_changelist"),
                    _link("API keys", "key", "workspaces_apikey_changelist"),
                    _link("Token issuers", "verified_user", "workspaces_jwtissuer_changelist"),
                ],
            },
            {
                "title": "Installation",
                "items": [
                    _link("Plans", "speed", "workspaces_plan_changelist", "is_superuser"),
                    _link("Users", "person", "workspaces_user_changelist", "is_superuser"),
                    _link("Single sign-on", "login", "socialaccount_socialapp_changelist", "is_superuser"),
                    _link("Encryption keys", "lock", "encryption_keys", "is_superuser"),
                ],
            },
        ],
    },
}

# -- API -------------------------------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Jackfield",
    "DESCRIPTION": "Connect people's accounts and run tools with their credentials.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "POSTPROCESSING_HOOKS": [],  # choices stay where they stand, as in our own document (`apps.lib.openapi`)
}

# -- Logging ---------------------------------------------------------------------------------------------------------
LOGGING_CONFIG = None
SILENCED_SYSTEM_CHECKS: list[str] = []
