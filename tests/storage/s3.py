"""As much of S3 over HTTP as blobs need, in memory: objects, ranges, conditional and multipart writes, lists."""

from __future__ import annotations

import hashlib
import itertools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def _asked(self):
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        self.key = unquote(url.path).partition("/bucket/")[2]
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return self.server.objects, self.server.uploads

    def _answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self):
        objects, uploads = self._asked()
        tag = f'"{hashlib.md5(self.body).hexdigest()}"'
        if "uploadId" in self.query:
            uploads[self.query["uploadId"]][int(self.query["partNumber"])] = self.body
        elif self.headers.get("If-None-Match") == "*":
            if objects.setdefault(self.key, self.body) is not self.body:
                return self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        else:
            objects[self.key] = self.body
        return self._answer(200, ETag=tag)

    def do_POST(self):
        objects, uploads = self._asked()
        if "uploads" in self.query:
            name = f"upload{next(self.server.numbers)}"
            uploads[name] = {}
            self._answer(
                200,
                f"<InitiateMultipartUploadResult><Bucket>bucket</Bucket><Key>{escape(self.key)}</Key>"
                f"<UploadId>{name}</UploadId></InitiateMultipartUploadResult>".encode(),
            )
        elif "delete" in self.query:
            keys = re.findall("<Key>(.*?)</Key>", self.body.decode())
            for key in keys:
                objects.pop(unescape(key), None)
            deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())
        else:
            parts = uploads.pop(self.query["uploadId"])
            objects[self.key] = b"".join(parts[number] for number in sorted(parts))
            self._answer(
                200,
                f"<CompleteMultipartUploadResult><Bucket>bucket</Bucket><Key>{escape(self.key)}</Key>"
                f'<ETag>"whole"</ETag></CompleteMultipartUploadResult>'.encode(),
            )

    def do_DELETE(self):
        objects, uploads = self._asked()
        if "uploadId" in self.query:
            uploads.pop(self.query["uploadId"], None)
        else:
            objects.pop(self.key, None)
        self._answer(204)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        objects, _ = self._asked()
        if "list-type" in self.query:
            prefix = self.query.get("prefix", "")
            entries = "".join(
                f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>x</ETag>"
                f"<Size>{len(objects[key])}</Size><StorageClass>STANDARD</StorageClass></Contents>"
                for key in sorted(objects)
                if key.startswith(prefix)
            )
            return self._answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode())
        if self.key not in objects:
            return self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        data, common = objects[self.key], {"ETag": '"x"', "Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            start, end = int(asked[1]), min(int(asked[2]) + 1, len(data))
            return self._answer(206, data[start:end], Content_Range=f"bytes {start}-{end - 1}/{len(data)}", **common)
        return self._answer(200, data, **common)


@contextmanager
def served() -> Iterator[tuple[str, dict[str, bytes], dict[str, dict[int, bytes]]]]:
    """The service's address, its objects, and the multipart uploads that are not complete."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.objects, server.uploads, server.numbers = {}, {}, itertools.count()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server.objects, server.uploads
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
