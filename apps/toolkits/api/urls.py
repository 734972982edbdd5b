from django.urls import path

from . import views

urlpatterns = [
    path("toolkits", views.OwnToolkitsView.as_view()),
    path("toolkits/<str:slug>", views.OwnToolkitView.as_view()),
]
