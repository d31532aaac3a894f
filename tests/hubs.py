"""Stand-ins for the Hugging Face Hub and Kaggle on this machine: what their own libraries send, put together again."""

import base64
import json
import threading

from server import Server, respond


class StandIn(Server):
    """Answers by `answer(path, body)`: an object for JSON, or an HTTP status. failing: ends of paths that get 500."""

    def __init__(self):
        super().__init__()
        self.uploads, self.failing, self.lock = {}, (), threading.Lock()

    def otherwise(self, handler):
        path, body = handler.path.split("?")[0], read(handler)
        with self.lock:
            if path.startswith("/upload/"):
                self.uploads[path.removeprefix("/upload/")] = body
            answer = 500 if path.endswith(self.failing) else self.answer(path, body)
        status, answer = (answer, {"error": "planted"}) if isinstance(answer, int) else (200, answer)
        # The server closes each connection: no client may take it for its next request.
        headers = {"Content-Type": "application/json", "Connection": "close"}
        respond(handler, json.dumps(answer).encode(), status, **headers)


def read(handler):
    if handler.headers["Transfer-Encoding"] != "chunked":
        return handler.rfile.read(int(handler.headers["Content-Length"] or 0))
    chunks = []
    while size := int(handler.rfile.readline(), 16):
        chunks.append(handler.rfile.read(size + 2)[:-2])
    return b"".join(chunks)


class Hub(StandIn):
    """created: by repository, what was asked for. commits: by repository, what each brought by path, None: deleted."""

    def __init__(self):
        super().__init__()
        self.created, self.commits = {}, {}

    def answer(self, path, body):
        given = [] if path.startswith("/upload/") else [json.loads(line) for line in body.splitlines()]
        if path == "/api/repos/create":
            repository = f"{given[0]['organization']}/{given[0]['name']}"
            self.created.setdefault(repository, given[0])
            return {"url": f"{self.url}/{repository}"}
        if path.endswith("/objects/batch"):
            action = {o["oid"]: {"upload": {"href": f"{self.url}/upload/{o['oid']}"}} for o in given[0]["objects"]}
            return {"objects": [o | {"actions": action[o["oid"]]} for o in given[0]["objects"]]}
        repository = path.removeprefix("/api/models/").rsplit("/", 2)[0]
        if "/tree/" in path:
            return [{"type": "file", "path": file, "size": 1, "oid": "0"} for file in self.files(repository)]
        if "/preupload/" in path:  # small files ride in the commit, others come before it
            mode = {f["path"]: "lfs" if f["size"] > 50 else "regular" for f in given[0]["files"]}
            return {"files": [{"path": f, "uploadMode": how, "shouldIgnore": False} for f, how in mode.items()]}
        if "/commit/" in path:
            brought = {line["value"]["path"]: self.content(**line) for line in given[1:]}
            self.commits.setdefault(repository, []).append(brought)
            return {"commitUrl": f"{self.url}/{repository}/commit/1", "commitOid": "1"}
        return {}

    def content(self, key, value):
        if key == "deletedFile":
            return None
        return self.uploads[value["oid"]] if key == "lfsFile" else base64.b64decode(value["content"])

    def files(self, repository):
        """What all commits left."""
        every = {path: data for commit in self.commits.get(repository, []) for path, data in commit.items()}
        return {path: data for path, data in every.items() if data is not None}


class Kaggle(StandIn):
    """variations: by handle, what was said of each, with its `files` by path."""

    def __init__(self):
        super().__init__()
        self.models, self.variations, self.names = [], {}, {}

    def answer(self, path, body):
        call, given = path.split("/")[-1], {} if path.startswith("/upload/") else json.loads(body)
        if call == "StartBlobUpload":
            token = str(len(self.names))
            self.names[token] = given["name"]
            return {"token": token, "createUrl": f"{self.url}/upload/{token}"}
        if call == "GetModel" and (given["ownerSlug"], given["modelSlug"]) not in self.models:
            return 404
        if call == "CreateModel":
            self.models.append((given["ownerSlug"], given["slug"]))
        if call == "CreateModelInstance":
            said = given["body"]
            handle = "/".join((given["ownerSlug"], given["modelSlug"], said["framework"], said["instanceSlug"]))
            self.variations[handle] = said | {"files": self.files(said)}
        return {}

    def files(self, folder, prefix=""):
        found = {prefix + self.names[f["token"]]: self.uploads[f["token"]] for f in folder.get("files", [])}
        for inner in folder.get("directories", []):
            found |= self.files(inner, f"{prefix}{inner['name']}/")
        return found
