FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    JACKFIELD_HOME=/data

WORKDIR /app

# What the product needs changes more rarely than the product: a layer of its own.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN pip install --no-cache-dir --constraint constraints.txt .

COPY manage.py ./
COPY config ./config
COPY apps ./apps
COPY templates ./templates
COPY static ./static
COPY locale ./locale

RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin jackfield \
    && install --directory --owner=jackfield --mode=0700 /data
USER 10001
VOLUME /data
EXPOSE 8000

# The installation answers only to its own host names, so the check names the one of JACKFIELD_URL.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s CMD ["python", "-c", "import os, urllib.parse as p, urllib.request as r; r.urlopen(r.Request('http://127.0.0.1:8000/healthz', headers={'Host': p.urlsplit(os.environ.get('JACKFIELD_URL', '')).netloc or '127.0.0.1'}), timeout=4)"]

CMD ["granian", "--interface", "wsgi", "--host", "0.0.0.0", "--port", "8000", "--workers", "2", "--blocking-threads", "64", "--backlog", "1024", "--workers-kill-timeout", "10", "--respawn-failed-workers", "--no-ws", "config.wsgi:application"]
