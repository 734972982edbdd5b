from django.urls import path

from . import raw

PROJECT = "projects/<project:project_id>/integrations"

urlpatterns = [
    path("templates", raw.TemplatesView.as_view()),
    path(PROJECT, raw.IntegrationsView.as_view()),
    path(f"{PROJECT}/from-template", raw.FromTemplateView.as_view()),
    path(f"{PROJECT}/import", raw.ImportView.as_view()),
    path(f"{PROJECT}/<str:integration_id>", raw.IntegrationView.as_view()),
    path(f"{PROJECT}/<str:integration_id>/execute", raw.ExecuteView.as_view()),
    path(f"{PROJECT}/<str:integration_id>/test", raw.TestView.as_view()),
    path(f"{PROJECT}/<str:integration_id>/export", raw.ExportView.as_view()),
    path(f"{PROJECT}/<str:integration_id>/usage", raw.UsageView.as_view()),
]
