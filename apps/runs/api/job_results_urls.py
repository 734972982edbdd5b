from django.urls import path

from . import job_results

urlpatterns = [path("v1/job-results/<str:token>", job_results.ResultsView.as_view())]
