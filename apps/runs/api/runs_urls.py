from django.urls import path

from . import runs

# As the Runs API's page prints it, and as the published clients call it.
PLAIN = "<workspace:workspace_id>/projects/<str:project_name>"
CLIENTS = f"api/v1/workspace/{PLAIN}"

urlpatterns = [
    path(f"{PLAIN}/run/start", runs.StartView.as_view()),
    path(f"{PLAIN}/run/<str:run_id>/result", runs.ResultView.as_view()),
    path(f"{PLAIN}/run/<str:run_id>/cancel", runs.CancelView.as_view()),
    path(f"{PLAIN}/run/<str:run_id>/trace", runs.TraceView.as_view()),
    path(f"{CLIENTS}/run/start", runs.ClientStartView.as_view()),
    path(f"{CLIENTS}/run/<str:run_id>/result", runs.ClientResultView.as_view()),
    path(f"{CLIENTS}/run/<str:run_id>/cancel", runs.ClientCancelView.as_view()),
    path(f"{CLIENTS}/run/<str:run_id>/trace", runs.ClientTraceView.as_view()),
]
