from django.urls import path

from . import views

urlpatterns = [
    path("user-tokens", views.UserTokensView.as_view()),
    path("settings", views.SettingsView.as_view()),
]
