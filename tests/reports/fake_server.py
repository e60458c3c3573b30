"""A language model that answers as a test says, and records for it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from reports.cleaning import clean_records


class FakeServer:
    """Answers each request by `reply(number, findings, impression)`: an answer's content, or (status, headers).

    first(body): (status, the JSON of an error), or None where `reply` answers.
    """

    def __init__(self, reply, first=lambda body: None):
        self.requests, self.lock, fake = [], threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                report = json.loads(body["messages"][-1]["content"])
                with fake.lock:
                    fake.requests.append({"path": self.path, "key": self.headers["Authorization"], **body, **report})
                    number = len(fake.requests)
                answer = reply(number, report["findings"], report["impression"])
                status, headers = answer if isinstance(answer, tuple) else (200, {})
                text = "busy" if isinstance(answer, tuple) else answer
                content = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
                if error := first(body):
                    status, content = error[0], json.dumps(error[1]).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


def good(number, findings, impression):
    return json.dumps({"findings": findings.replace("Stable ", "").capitalize(), "impression": impression})


def items(count=6):
    return [
        {
            "image": f"{i}.png",
            "findings": f"Stable left effusion of {i + 2} cm.",
            "impression": "No fracture.",
            "age": i,
        }
        for i in range(count)
    ]


def by_llm(fake, tmp_path, records=None, concurrency=4, **more):
    options = {"progress": False, "timeout": 5, **more}
    records = items() if records is None else records
    return clean_records(records, tmp_path / "out.jsonl", fake.url, "tiny", concurrency, **options)


def written(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
