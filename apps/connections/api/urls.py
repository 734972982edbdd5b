from django.urls import path

from . import imports, sessions, views

urlpatterns = [
    path("integrations/available", views.AvailableView.as_view()),
    path("integrations/config", views.ConfigView.as_view()),
    path("integrations/configure", views.ConfigureView.as_view()),
    path("integrations/configure/<str:toolkit>", views.ConfiguredView.as_view()),
    path("integrations/connect", views.ConnectView.as_view()),
    path("integrations/connect-sessions", sessions.ConnectSessionsView.as_view()),
    path("integrations/connections/import", imports.ImportView.as_view()),
    path("integrations/connections", views.ConnectionsView.as_view()),
    path("integrations/connections/<str:connection_id>", views.ConnectionView.as_view()),
    path("integrations/connections/<str:connection_id>/token", imports.TokenView.as_view()),
    path("integrations/connections/<str:connection_id>/confirm", views.ConfirmView.as_view()),
    path("end-users", views.EndUsersView.as_view()),
    path("end-users/<path:user_id>", views.EndUserView.as_view()),
]
