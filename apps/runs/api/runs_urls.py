from django.urls import path, re_path

from . import auth_sessions_urls, job_runs, jobs, runs

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
    path(f"{PLAIN}/jobs", jobs.JobsView.as_view()),
    path(f"{PLAIN}/jobs/<str:job_id>", jobs.JobView.as_view()),
    path(f"{PLAIN}/jobs/<str:job_id>/pause", jobs.PauseView.as_view()),
    path(f"{PLAIN}/jobs/<str:job_id>/resume", jobs.ResumeView.as_view()),
    path(f"{PLAIN}/jobs/<str:job_id>/trigger", jobs.TriggerView.as_view()),
    path(f"{PLAIN}/jobs/<str:job_id>/runs", job_runs.JobRunsView.as_view()),
    path(f"{PLAIN}/jobs/<str:job_id>/runs/<str:job_run_id>", job_runs.JobRunView.as_view()),
    path(f"{PLAIN}/jobs/<str:job_id>/runs/<str:job_run_id>/terminate", job_runs.TerminateView.as_view()),
    path(f"{CLIENTS}/jobs", jobs.ClientJobsView.as_view()),
    path(f"{CLIENTS}/jobs/<str:job_id>", jobs.ClientJobView.as_view()),
    path(f"{CLIENTS}/jobs/<str:job_id>/pause", jobs.ClientPauseView.as_view()),
    path(f"{CLIENTS}/jobs/<str:job_id>/resume", jobs.ClientResumeView.as_view()),
    path(f"{CLIENTS}/jobs/<str:job_id>/trigger", jobs.ClientTriggerView.as_view()),
    path(f"{CLIENTS}/jobs/<str:job_id>/runs", job_runs.ClientJobRunsView.as_view()),
    path(f"{CLIENTS}/jobs/<str:job_id>/runs/<str:job_run_id>", job_runs.ClientJobRunView.as_view()),
    path(f"{CLIENTS}/jobs/<str:job_id>/runs/<str:job_run_id>/terminate", job_runs.ClientTerminateView.as_view()),
    *auth_sessions_urls.below(PLAIN, CLIENTS),
    # At both prefixes; as a pattern of its own, for there is nothing to describe.
    re_path(
        r"^(?:api/v1/workspace/)?(?P<workspace_id>[0-9a-fA-F-]{36})/web-tasks(?:/.*)?$", jobs.NoWebTasksView.as_view()
    ),
]
