"""moto's S3 over HTTP: buckets and objects in memory, made and read with boto3."""

import sys
from pathlib import Path
from typing import Any

import boto3

from tests.peers.process import HOST, Peer, PeerUnavailable, answers_http, free_port, package_folder

REGION = "us-east-1"
KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


class Moto(Peer):
    def __init__(self) -> None:
        super().__init__()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def s3(self) -> Any:
        """boto3's client of it."""
        return boto3.client(
            "s3", endpoint_url=self.url, region_name=REGION, aws_access_key_id=KEY, aws_secret_access_key=SECRET
        )

    def sink(self, bucket: str, **changes: Any) -> dict[str, Any]:
        """A sink that puts into this bucket, as the Runs API has it."""
        named = {"bucket": bucket, "accessKeyId": KEY, "secretAccessKey": SECRET, "region": REGION}
        return {"type": "s3", **named, "endpoint": self.url, "forcePathStyle": True, **changes}

    def objects(self, bucket: str) -> dict[str, bytes]:
        found = self.s3.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {one["Key"]: self.s3.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in found}

    def prepare(self) -> None:
        self.port = free_port()

    def command(self) -> list[str]:
        server = Path(sys.executable).with_name("moto_server")
        if not server.exists() or not package_folder("flask"):
            raise PeerUnavailable("the package moto[server] is not installed")
        return [str(server), "-H", HOST, "-p", str(self.port)]

    def ready(self) -> bool:
        return answers_http(f"{self.url}/moto-api/")
