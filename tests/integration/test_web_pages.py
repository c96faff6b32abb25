"""What a web page in the user's own browser can do to a local stack: nothing."""

from __future__ import annotations

import http.client
import http.server
import json
import threading
from collections.abc import Iterator

import psutil
import pytest
from selenium import webdriver

from batch.local.ports import LOOPBACK
from batch.local.stack import LocalStack
from tests.provider import ask

WORKFLOW = json.dumps({"workflowType": {"name": "X"}, "taskQueue": {"name": "docbatch"}})
ATTACKS = [
    # port, method, path, content type, body
    ("temporal_http", "POST", "/api/v1/namespaces/default/workflows/from-a-page", "text/plain", WORKFLOW),
    ("temporal_http", "GET", "/api/v1/namespaces/default/workflows", "", ""),
    ("s3_filer", "GET", "/buckets/corpus/secret.txt", "", ""),
    ("s3_filer", "GET", "/buckets/corpus/", "", ""),
    ("s3_filer", "POST", "/buckets/corpus/from-a-page.txt", "text/plain", "x"),
    ("s3_master", "GET", "/dir/status", "", ""),
    ("s3_master", "GET", "/dir/assign", "", ""),
    ("s3_master", "GET", "/col/delete?collection=corpus", "", ""),
    ("s3_volume", "GET", "/1,01", "", ""),
    ("s3_admin", "GET", "/", "", ""),
    ("s3", "GET", "/corpus/secret.txt", "", ""),
    ("provider", "POST", "/control", "text/plain", '{"fail_all": "500"}'),
    ("provider", "POST", "/stats/reset", "text/plain", ""),
    ("provider", "GET", "/stats?documents=1", "", ""),
    ("worker-0", "GET", "/metrics", "", ""),
]
PAGE = """
const [url, method, type, body, done] = arguments;
fetch(url, {method, ...(method == "POST" ? {headers: {"Content-Type": type}, body} : {})})
    .then(async answer => done(answer.status + " " + await answer.text()), error => done("blocked: " + error));
"""


@pytest.fixture(scope="module")
def page(browser: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """A page of another origin, opened."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>evil</title>")

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer((LOOPBACK, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser.get(f"http://{LOOPBACK}:{server.server_address[1]}/")
    yield browser
    server.shutdown()


def read(stack: LocalStack, path: str, port: str, host: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(LOOPBACK, stack.ports[port], timeout=10)
    connection.request("GET", path, headers={"Host": host})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_page_reads_and_changes_nothing(page: webdriver.Chrome, stack: LocalStack) -> None:
    stack.s3_client().put_object(Bucket="corpus", Key="secret.txt", Body=b"SECRET")
    before = ask(stack, "/control")
    for port, method, path, kind, body in ATTACKS:
        url = f"http://{LOOPBACK}:{stack.ports[port]}{path}"
        said = page.execute_async_script(PAGE, url, method, kind, body)
        # What has Access-Control-Allow-Origin may be read as a refusal; a page sees nothing else.
        assert said.startswith(("blocked", "401", "403", "404")), (url, said)
    assert ask(stack, "/control") == before
    assert stack.s3_client().get_object(Bucket="corpus", Key="secret.txt")["Body"].read() == b"SECRET"
    listed = stack.s3_client().list_objects_v2(Bucket="corpus", Prefix="from-a-page").get("Contents", [])
    assert not listed
    host = stack.temporal_http_host
    status, answer = read(stack, "/api/v1/namespaces/default/workflows/from-a-page", "temporal_http", host)
    assert status == 404, answer


def test_nor_one_whose_name_resolves_to_this_machine(stack: LocalStack) -> None:
    for port, method, path, _, _ in ATTACKS:
        if method == "GET":
            status, answer = read(stack, path, port, "evil.example")
            assert status in (401, 403, 404), (port, path, status, answer[:200])


def test_all_of_it_listens_on_loopback_alone(stack: LocalStack) -> None:
    listening = [
        (process.name(), connection.laddr)
        for server in (stack.temporal, stack.s3, stack.provider, *stack.workers)
        if server is not None
        for process in (psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {"temporal", "weed"} <= {name for name, _ in listening}
    assert stack.ports["worker-0"] in {address.port for _, address in listening}
    assert {address.ip for _, address in listening} == {LOOPBACK}, listening
