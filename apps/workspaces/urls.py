from django.urls import URLPattern, path

from .api import accounts

urlpatterns: list[URLPattern] = [
    path("api/auth/login", accounts.LoginView.as_view()),
    path("api/auth/refresh", accounts.RefreshView.as_view()),
    path("api/auth/logout", accounts.LogoutView.as_view()),
]
