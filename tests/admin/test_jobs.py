"""Jobs and job runs in the admin: schedules as a calendar and in words, making and changing, progress, what failed."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.contrib.admin.utils import quote
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from apps.modules import services
from apps.runs import admin_calendar, jobs, schedules
from apps.runs.models import Job, JobItem, JobRun, Run
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import AuditEvent
from tests.admin.conftest import Staff, text_of

WEEKLY = {"calendars": [{"hour": 9, "minute": 30, "dayOfWeek": ["MONDAY", "FRIDAY"]}], "timezone": "Europe/Berlin"}
PAYLOAD = [{"apiName": "onboard", "parameters": {"employee_name": "Ada", "password": "sh-secret"}}]
SINK = {"type": "webhook", "url": "https://sink.example/in", "headers": {"X-Key": "sh-secret"}}


def make_job(staff: Staff, name: str = "nightly", **changes: Any) -> Job:
    body = {"id": name, "payload": PAYLOAD, "configuration": {"maxConcurrentRequests": 2}, "schedule": WEEKLY} | changes
    return jobs.create(staff.cast.project, body, SYSTEM)


def make_job_run(job: Job, items: list[dict[str, Any]], **fields: Any) -> JobRun:
    """With items as told, and counts that go with them."""
    statuses = [item.get("status", "pending") for item in items]
    row = JobRun.objects.create(
        job=job, project=job.project, workspace_id=job.project.workspace_id, type="MANUAL", started_by="user:x@y.example",
        snapshot={"configuration": {"maxConcurrentRequests": 2}}, payloads=len(items),
        started_runs=sum(status != "pending" for status in statuses), successful_runs=statuses.count("succeeded"),
        failed_runs=statuses.count("failed"), **fields,
    )  # fmt: skip
    for number, item in enumerate(items):
        JobItem.objects.create(job_run=row, number=number, api="onboard", **item)
    return row


def url(row: Job | JobRun, name: str = "change", *args: str) -> str:
    return reverse(f"admin:runs_{row._meta.model_name}_{name}", args=[quote(row.pk), *args])


def page_of(client: Client, row: Job | JobRun, query: str = "") -> str:
    answer = client.get(url(row) + query)
    assert answer.status_code == 200
    return text_of(answer)


def form_of(staff: Staff, **changes: Any) -> dict[str, Any]:
    parts = {"payload": PAYLOAD, "configuration": {}, "schedule": WEEKLY}
    fields = {"project": staff.cast.project.pk, "id": "nightly", "user_id": "", "more": ""}
    return fields | {name: json.dumps(value) for name, value in parts.items()} | changes


# -- The list --------------------------------------------------------------------------------------------------------
def test_the_list_tells_when_each_job_fires_and_how_it_went(staff: Staff) -> None:
    make_job_run(make_job(staff), [{"status": "failed"}], status="FAILURE")
    make_job(staff, "by hand", schedule=None)
    make_job(staff, "often", schedule={"intervals": [{"every": "15m"}, {"every": "1h"}]})
    shown = text_of(staff.bob.get(reverse("admin:runs_job_changelist")))
    assert "At 09:30 on Monday and Friday (Europe/Berlin)." in shown
    assert "Only by hand, or over the API." in shown
    assert "Every 15 minutes. And 1 more." in shown
    assert "Failed" in shown
    assert "None yet" in shown
    make_job(staff, "x" * 200)
    assert "x" * 100 not in text_of(staff.bob.get(reverse("admin:runs_job_changelist")))


def test_the_list_costs_the_same_however_many_jobs_and_reads_no_payload(staff: Staff) -> None:
    def queries() -> list[str]:
        with CaptureQueriesContext(connection) as captured:
            assert staff.bob.get(reverse("admin:runs_job_changelist")).status_code == 200
        return [query["sql"] for query in captured]

    make_job(staff)
    before = queries()
    for number in range(5):
        make_job(staff, f"job {number}")
    after = queries()
    assert len(after) == len(before)
    assert not [sql for sql in after if '"runs_job"."payload"' in sql]


def test_a_deleted_job_is_gone_and_its_job_runs_stay(staff: Staff) -> None:
    job = make_job(staff)
    row = make_job_run(job, [], status="SUCCESS")
    assert staff.alice.post(url(job, "delete"), {"post": "yes"}).status_code == 302
    assert Job.objects.get(pk=job.pk).deleted_at is not None
    assert staff.alice.get(url(job)).status_code == 404
    assert "nightly" in page_of(staff.alice, row)
    assert url(job) not in page_of(staff.alice, row)


# -- The page of a job -----------------------------------------------------------------------------------------------
def test_the_page_tells_the_schedule_in_words_and_the_next_ten_firings(staff: Staff) -> None:
    job = make_job(staff)
    shown = page_of(staff.bob, job)
    assert "At 09:30 on Monday and Friday (Europe/Berlin)." in shown
    found = re.findall(
        r'<time datetime="([^"]+)">((?:Monday|Friday), \d+ \w+ \d{4} at 09:30 \(Europe/Berlin\), in [^<]+)<', shown
    )
    assert len(found) == 10
    job.refresh_from_db()
    assert datetime.fromisoformat(found[0][0]) == job.next_run_at


def test_the_firings_are_told_with_their_jitter_as_the_scheduler_takes_them(staff: Staff) -> None:
    job = make_job(staff, schedule={"intervals": [{"every": "1d"}], "jitter": "10h"})
    job.refresh_from_db()
    assert job.next_run_at is not None
    first = re.search(r'<time datetime="([^"]+)"', page_of(staff.bob, job))
    assert first is not None
    assert datetime.fromisoformat(first[1]) == job.next_run_at


def test_the_page_marks_the_days_of_a_month_on_which_it_fires(staff: Staff) -> None:
    shown = page_of(staff.bob, make_job(staff), "?month=2026-11")
    assert "November 2026" in shown
    assert shown.count('class="jf-cal-1') == 9  # five Mondays and four Fridays
    assert "?month=2026-10#calendar" in shown
    assert "?month=2026-12#calendar" in shown
    assert "1 firing: 09:30" in shown


@pytest.mark.parametrize("month", ["2026-13", "1969-12", "2201-01", "x", "", "2026-11-01", "%00", "２０２６-11"])
def test_a_month_that_is_none_is_this_month(staff: Staff, month: str) -> None:
    today = timezone.now().astimezone(ZoneInfo("Europe/Berlin"))
    shown = page_of(staff.bob, make_job(staff), f"?month={month}")
    assert f"{schedules.MONTHS[today.month - 1]} {today.year}</h2>" in shown
    assert 'aria-current="date"' in shown


def test_a_job_without_a_schedule_has_no_calendar(staff: Staff) -> None:
    shown = page_of(staff.bob, make_job(staff, schedule=None))
    assert "Only by hand" in shown
    assert "jf-cal" not in re.sub(r"<link[^>]*>", "", shown)


def test_a_schedule_that_never_fires_again_says_so(staff: Staff) -> None:
    shown = page_of(staff.bob, make_job(staff, schedule={"calendars": [{"year": 2020}]}))
    assert "it never fires again" in shown


def test_a_schedule_that_is_none_any_more_leaves_the_page_readable(staff: Staff) -> None:
    job = make_job(staff)
    Job.objects.filter(pk=job.pk).update(schedule={"intervals": [{"every": "1h"}], "timezone": "Mars/Base"})
    assert "Never: its schedule is not understood here any more." in page_of(staff.bob, job)
    assert staff.bob.get(reverse("admin:runs_job_changelist")).status_code == 200


def test_the_page_shows_no_secret_of_a_job(staff: Staff) -> None:
    job = make_job(staff, sink=SINK, proxy="http://user:sh-secret@proxy.example:3128",
                   notifications=[{"type": "webhook", "url": "https://n.example", "headers": {"A": "sh-secret"}}])  # fmt: skip
    for address in (url(job), url(job, "edit")):
        shown = text_of(staff.alice.get(address))
        assert "https://sink.example/in" in shown
        assert "********" in shown
        if address == url(job):
            assert "sh-secret" not in shown  # by a secret's name, parameters of a payload too
        else:
            assert shown.count("sh-secret") == 1  # the payload's, which is to be changed


# -- What can be done ------------------------------------------------------------------------------------------------
def test_a_job_is_fired_paused_and_resumed(staff: Staff) -> None:
    job = make_job(staff)
    answer = staff.dana.post(url(job, "do", "trigger"))
    job_run = JobRun.objects.get(job=job)
    assert answer.status_code == 302
    assert answer["Location"] == url(job_run)
    assert job_run.type == "MANUAL"
    staff.dana.post(url(job, "do", "pause"))
    job.refresh_from_db()
    assert (job.state, job.next_run_at) == ("PAUSED", None)
    shown = page_of(staff.dana, job)
    assert "It does not fire until it is resumed." in shown
    assert "If it were resumed now" in shown
    assert "Fire now" not in shown
    staff.dana.post(url(job, "do", "resume"))
    job.refresh_from_db()
    assert job.state == "ACTIVE"
    assert job.next_run_at is not None
    for action in ("job.triggered", "job.paused", "job.resumed"):
        assert AuditEvent.objects.filter(action=action, actor="user:dana@example.com").exists(), action


def test_firing_a_job_that_was_paused_meanwhile_says_why_not(staff: Staff) -> None:
    job = make_job(staff)
    jobs.pause(job, SYSTEM)
    assert "The job is paused." in text_of(staff.dana.post(url(job, "do", "trigger"), follow=True))
    assert not JobRun.objects.filter(job=job).exists()


@pytest.mark.parametrize("name", ["trigger", "pause", "resume"])
def test_a_viewer_and_a_get_change_nothing(staff: Staff, name: str) -> None:
    job = make_job(staff)
    assert staff.bob.post(url(job, "do", name)).status_code == 403
    assert staff.charlie.post(url(job, "do", name)).status_code == 404
    assert staff.alice.get(url(job, "do", name)).status_code == 405
    assert not JobRun.objects.filter(job=job).exists()
    assert Job.objects.get(pk=job.pk).state == "ACTIVE"


def test_a_viewer_sees_no_button_that_would_be_refused(staff: Staff) -> None:
    job = make_job(staff)
    for word in ("Fire now", "Pause", "Change</a>", "Delete</a>"):
        assert word not in page_of(staff.bob, job)
        assert word in page_of(staff.alice, job)
    row = make_job_run(job, [{}])
    assert "Terminate" not in page_of(staff.bob, row)
    assert "Terminate" in page_of(staff.dana, row)


# -- Making and changing ---------------------------------------------------------------------------------------------
def test_a_job_is_made_by_the_form(staff: Staff) -> None:
    data = form_of(staff, user_id="alices-user", more=json.dumps({"sink": SINK}))
    answer = staff.dana.post(reverse("admin:runs_job_add"), data)
    job = Job.objects.get(name="nightly")
    assert answer["Location"] == url(job)
    assert (job.payload, job.schedule, job.user_id) == (PAYLOAD, WEEKLY, "alices-user")
    assert job.unseal("sink")["headers"] == {"X-Key": "sh-secret"}
    assert job.next_run_at is not None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"payload": "[{"}, "This is not JSON", id="no JSON"),
        pytest.param({"payload": '[{"apiName": "other", "parameters": {}}]'}, "0.apiName: There is no published", id="api"),
        pytest.param({"schedule": '{"calendars": [{"hour": 24}]}'}, "calendars.0.hour: Must be a whole", id="an hour"),
        pytest.param({"schedule": '{"timezone": "Mars"}'}, "timezone: Must be the name of a time zone", id="a zone"),
        pytest.param({"schedule": "[]"}, "Must be an object.", id="no object"),
        pytest.param({"configuration": '{"maxRuns": 0}'}, "maxRuns: Must be a whole number", id="configuration"),
        pytest.param({"configuration": "[]"}, "Invalid data", id="no configuration"),
        pytest.param({"more": '{"id": "else"}'}, "no other members than", id="an unknown member"),
        pytest.param({"more": "[]"}, "no other members than", id="no members"),
        pytest.param({"more": '{"sink": {"type": "ftp"}}'}, "sink.type: ", id="a sink"),
        pytest.param({"id": "a/b"}, "Must be printable", id="a slash"),
        pytest.param({"id": ""}, "This field is required.", id="no id"),
        pytest.param({"payload": '"\\ud800"'}, "surrogate", id="half a character"),
        pytest.param({"payload": "[" * 5000}, "This is n", id="deep"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_at_its_field_and_nothing_is_made(
    staff: Staff, changes: dict[str, str], said: str
) -> None:
    answer = staff.dana.post(reverse("admin:runs_job_add"), form_of(staff, **changes))
    assert answer.status_code == 200
    assert said in text_of(answer)
    assert not Job.objects.filter(name="nightly").exists()


def test_an_id_that_is_taken_is_told(staff: Staff) -> None:
    make_job(staff)
    assert "There is a job nightly already." in text_of(staff.dana.post(reverse("admin:runs_job_add"), form_of(staff)))


def test_nobody_makes_a_job_in_a_project_that_is_not_theirs(staff: Staff) -> None:
    assert staff.bob.get(reverse("admin:runs_job_add")).status_code == 403
    assert "Select a valid choice" in text_of(staff.charlie.post(reverse("admin:runs_job_add"), form_of(staff)))
    assert not Job.objects.filter(name="nightly").exists()


def test_a_job_is_changed_and_keeps_what_is_masked(staff: Staff) -> None:
    job = make_job(staff, sink=SINK, proxy="http://user:sh-secret@proxy.example:3128")
    form = staff.dana.get(url(job, "edit")).context["form"]
    data = {name: form.initial[name] for name in form.fields}
    assert "sh-secret" not in data["more"]
    data["schedule"] = json.dumps({"intervals": [{"every": "1h"}]})
    assert staff.dana.post(url(job, "edit"), data)["Location"] == url(job)
    job.refresh_from_db()
    assert job.schedule == {"intervals": [{"every": "1h"}]}
    assert job.unseal("sink") == SINK
    assert job.unseal("proxy") == {"proxy": "http://user:sh-secret@proxy.example:3128"}
    assert job.configuration == {"maxConcurrentRequests": 2}
    assert job.next_run_at is not None
    assert job.next_run_at - timezone.now() <= timedelta(hours=1)


def test_a_payload_too_long_for_a_browser_stays_as_it_is(staff: Staff) -> None:
    long = [{"apiName": "onboard", "parameters": {"employee_name": "x" * 400_000}}]
    job = make_job(staff, payload=long)
    shown = text_of(staff.dana.get(url(job, "edit")))
    assert "too long for a browser" in shown
    assert "x" * 1000 not in shown
    assert len(page_of(staff.dana, job)) < 200_000
    data = {"configuration": "{}", "schedule": "", "more": ""}
    assert staff.dana.post(url(job, "edit"), data).status_code == 302
    job.refresh_from_db()
    assert job.payload == long
    assert job.schedule is None


# -- Job runs --------------------------------------------------------------------------------------------------------
def failed_run(staff: Staff) -> Run:
    error = {
        "type": "execution",
        "code": "script-exception",
        "message": "<b>down</b>",
        "details": {"token": "sh-secret"},
    }
    Run.objects.filter(pk=staff.run.pk).update(status="fatal_errored", error=error, ended_at=timezone.now())
    return staff.run


def test_the_page_of_a_job_run_tells_how_far_it_is_and_what_failed(staff: Staff) -> None:
    run = failed_run(staff)
    refused = {"code": "bad-request", "message": "Parameters do not fit.", "details": {"name": ["Required."]}}
    row = make_job_run(
        make_job(staff),
        [
            {"status": "succeeded"}, {"status": "failed", "run_id": run.pk, "parameters": {"token": "sh-secret"}},
            {"status": "failed", "error": refused}, {"status": "failed", "run_id": "gone"}, {"status": "started"}, {},
            {}, {},
        ],
    )  # fmt: skip
    shown = page_of(staff.bob, row)
    assert 'role="progressbar"' in shown
    assert 'aria-valuenow="4"' in shown
    assert 'aria-valuemax="8"' in shown
    assert "50 %" in shown
    assert "1 under way" in shown
    assert "3 waiting" in shown
    assert "script-exception: &lt;b&gt;down&lt;/b&gt;" in shown
    assert reverse("admin:runs_run_change", args=[quote(run.pk)]) in shown
    assert "bad-request: Parameters do not fit." in shown
    assert "The run is no longer kept." in shown
    assert "sh-secret" not in shown
    assert "Results as JSON Lines" not in shown


def test_a_job_run_that_moves_is_told_anew_and_one_that_does_not_is_not(staff: Staff) -> None:
    row = make_job_run(make_job(staff), [{}, {}])
    first = staff.bob.get(url(row, "live"))
    stamp = re.search(r'data-stamp="([^"]+)"', text_of(first))
    assert stamp is not None
    assert 'data-living="PENDING"' in text_of(first)
    assert "<html" not in text_of(first)
    assert staff.bob.get(url(row, "live"), {"seen": stamp[1]}).status_code == 204
    JobRun.objects.filter(pk=row.pk).update(successful_runs=2, status="SUCCESS", ended_at=timezone.now())
    second = text_of(staff.bob.get(url(row, "live"), {"seen": stamp[1]}))
    assert 'data-living="no"' in second
    assert "100 %" in second


def test_why_a_job_run_never_began_or_ended_early_is_told(staff: Staff) -> None:
    reason = {"type": "another-job-run-active", "message": "The one before was <i>under way</i>."}
    row = make_job_run(make_job(staff), [], status="CANCELED", reason=reason, ended_at=timezone.now())
    shown = page_of(staff.bob, row)
    assert "another-job-run-active" in shown
    assert "&lt;i&gt;under way" in shown
    assert "Results as JSON Lines" not in shown
    assert staff.bob.get(url(row, "results")).status_code == 404


def test_a_job_run_is_terminated_once(staff: Staff) -> None:
    row = make_job_run(make_job(staff), [{}])
    assert "The job run is terminated." in text_of(staff.dana.post(url(row, "do", "terminate"), follow=True))
    row.refresh_from_db()
    assert row.status == "TERMINATED"
    assert "had ended already" in text_of(staff.dana.post(url(row, "do", "terminate"), follow=True))


def test_the_results_of_a_job_run_are_a_click_away(staff: Staff, client: Client) -> None:
    row = make_job_run(make_job(staff), [{"status": "succeeded"}], status="SUCCESS", ended_at=timezone.now())
    assert url(row, "results") in page_of(staff.bob, row)
    answer = staff.bob.get(url(row, "results"))
    assert answer.status_code == 302
    assert answer["Location"].startswith("/v1/job-results/")
    assert client.get(answer["Location"]).status_code == 200


def test_all_items_are_a_page_at_a_time_and_by_status(staff: Staff) -> None:
    row = make_job_run(make_job(staff), [{"status": "failed"}] * 3 + [{"status": "succeeded"}] * 120, status="FAILURE")
    first = text_of(staff.bob.get(url(row, "items")))
    assert first.count('class="jf-item"') == 100
    assert "?status=&amp;after=99" in first
    assert text_of(staff.bob.get(url(row, "items"), {"after": "99"})).count('class="jf-item"') == 23
    assert text_of(staff.bob.get(url(row, "items"), {"status": "failed"})).count('class="jf-item"') == 3
    for after in ("x", "-1", "9" * 30, "\x00"):
        assert staff.bob.get(url(row, "items"), {"after": after, "status": after}).status_code == 200


@pytest.mark.parametrize("name", ["change", "live", "items", "results"])
def test_a_stranger_finds_no_job_run(staff: Staff, name: str) -> None:
    row = make_job_run(make_job(staff), [{"status": "succeeded"}], status="SUCCESS")
    assert staff.charlie.get(url(row, name)).status_code == 404
    assert staff.bob.post(url(row, name)).status_code == 403


def test_the_list_of_job_runs_is_never_counted_and_filtered_by_job(staff: Staff) -> None:
    job, other = make_job(staff), make_job(staff, "other")
    row, foreign = make_job_run(job, [{}]), make_job_run(other, [{}])
    with CaptureQueriesContext(connection) as captured:
        shown = text_of(staff.bob.get(reverse("admin:runs_jobrun_changelist"), {"job": job.pk}))
    assert url(row) in shown
    assert url(foreign) not in shown
    assert not [query["sql"] for query in captured if "COUNT(" in query["sql"] and "runs_jobrun" in query["sql"]]
    assert not [query["sql"] for query in captured if '"runs_job"."payload"' in query["sql"]]


# -- The calendar and words ------------------------------------------------------------------------------------------
NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)


def month(schedule: dict[str, Any], wanted: str = "") -> admin_calendar.Month:
    return admin_calendar.month_of(schedules.clean(schedule), wanted, NOW)


def counts(found: admin_calendar.Month) -> dict[int, str]:
    return {day.day.day: day.count for week in found.weeks for day in week if day}


def test_a_month_begins_on_its_weekday_and_knows_its_neighbours() -> None:
    found = month({"calendars": [{"hour": 9}]}, "2026-11")
    assert [len(week) for week in found.weeks] == [7] * 6
    assert [day and day.day.day for day in found.weeks[0]] == [None] * 6 + [1]
    assert (found.title, found.before, found.after) == ("November 2026", "2026-10", "2026-12")
    assert [day.day.day for week in found.weeks for day in week if day and day.is_today] == [22]
    assert month({}, "1970-01").before == ""
    assert month({}, "2200-12").after == ""


def test_days_are_those_of_the_schedule_s_time_zone() -> None:
    evening = {"calendars": [{"hour": 23, "dayOfMonth": 5}]}
    assert counts(month({**evening, "timezone": "America/New_York"}, "2026-11"))[5] == "1"
    days = month({"intervals": [{"every": "1h"}], "timezone": "Europe/Berlin"}, "2026-10")
    assert counts(days)[25] == "25"  # the clocks are put back
    assert counts(month({"intervals": [{"every": "1h"}], "timezone": "Europe/Berlin"}, "2026-03"))[29] == "23"


def test_a_day_that_a_time_zone_left_out_has_no_firing() -> None:
    found = counts(month({"calendars": [{"hour": 9}], "timezone": "Pacific/Apia"}, "2011-12"))
    assert (found[29], found[30], found[31]) == ("1", "", "1")


def test_what_fires_all_the_time_is_counted_so_far() -> None:
    assert set(counts(month({"intervals": [{"every": "1s"}]})).values()) == {"300+"}
    assert set(counts(month({"intervals": [{"every": "5m"}]})).values()) == {"288"}
    many = {
        "calendars": [
            {"second": "*", "minute": "*", "hour": "*", "year": {"start": 1970, "end": 2200 - one}}
            for one in range(100)
        ]
    }
    assert set(counts(month(many)).values()) == {"20+"}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "now"), (0.5, "now"), (1, "in 1 second"), (59, "in 59 seconds"), (60, "in 1 minute"), (3_599, "in 59 minutes"),
        (3_600, "in 1 hour"), (86_399, "in 23 hours"), (86_400, "in 1 day"), (59 * 86_400, "in 59 days"),
        (61 * 86_400, "in 2 months"), (719 * 86_400, "in 23 months"), (730 * 86_400, "in 2 years"),
    ],
)  # fmt: skip
def test_how_far_away_a_firing_is(seconds: float, words: str) -> None:
    assert admin_calendar.how_far(NOW + timedelta(seconds=seconds), NOW) == words


def test_a_firing_in_words() -> None:
    at = datetime(2026, 11, 23, 8, 30, tzinfo=UTC)
    words = admin_calendar.in_words(at, ZoneInfo("Europe/Berlin"), NOW)
    assert words == "Monday, 23 November 2026 at 09:30 (Europe/Berlin), in 22 hours"


def test_a_job_s_module_may_be_unpublished_and_its_page_is_there(staff: Staff) -> None:
    job = make_job(staff)
    services.delete(staff.module, SYSTEM)
    assert "onboard" in page_of(staff.bob, job)


def test_a_run_leads_to_the_job_run_that_it_is_an_item_of(staff: Staff) -> None:
    address = reverse("admin:runs_run_change", args=[quote(staff.run.pk)])
    assert url(staff.job_run) not in text_of(staff.bob.get(address))
    Run.objects.filter(pk=staff.run.pk).update(job_run=staff.job_run)
    assert url(staff.job_run) in text_of(staff.bob.get(address))
