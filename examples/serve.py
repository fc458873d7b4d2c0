"""Start a server and ask it for a picture with OpenAI's client; needs openai and httpx (`make install`).

python examples/serve.py "a cat"
"""

import base64
import subprocess
import sys
import time
from pathlib import Path

import httpx
from openai import OpenAI

URL = "http://127.0.0.1:8765"
server = subprocess.Popen([sys.executable, "-m", "fourstroke.cli", "serve", "--port", "8765"])
try:
    with httpx.Client(transport=httpx.HTTPTransport(retries=60)) as http:  # the port is held from the start
        while http.get(f"{URL}/health", timeout=120).status_code != 200:
            time.sleep(1)
    client = OpenAI(base_url=f"{URL}/v1", api_key="none")
    answer = client.images.generate(prompt=(sys.argv[1:] or ["a cat"])[0], extra_body={"seed": 7})
    Path("served.png").write_bytes(base64.b64decode(answer.data[0].b64_json))
    print("served.png")
finally:
    server.terminate()
    server.wait()
