"""A real nginx in front of a gateway, with the configuration of docs/howto/nginx.md."""

import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.gateway.doubles.processes import ROOT, Process
from tests.ports import free_port

PAGE = ROOT / "docs" / "howto" / "nginx.md"
MAIN = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr notice;
worker_processes 1;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    # Would hold back the events of a stream that may be buffered.
    gzip on;
    gzip_proxied any;
    gzip_types text/event-stream;
    {servers}
}}
"""


class Nginx(Process):
    def __init__(self, folder: Path, http: str, grpc: str) -> None:
        """Takes the addresses of the gateway's HTTP and gRPC servers."""
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program, "install nginx (`apt-get install nginx`)"
        http_port, grpc_port = free_port(), free_port()
        self.url, self.grpc_address = f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}"
        addresses = {
            "listen 80;": f"listen 127.0.0.1:{http_port};",
            "listen 81;": f"listen {self.grpc_address};",
            "gateway:8080": http,
            "gateway:8081": grpc,
        }
        servers = documented_servers()
        for documented, address in addresses.items():
            assert documented in servers, f"{PAGE} has no `{documented}`"
            servers = servers.replace(documented, address)
        user = "user root;" if os.geteuid() == 0 else ""  # another user cannot write to the folder
        file = folder / "nginx.conf"
        file.write_text(MAIN.format(folder=folder, user=user, servers=servers))
        program_of_test = [program, "-c", str(file), "-e", "stderr"]
        super().__init__(program_of_test, {}, folder / "nginx.log", "start worker process ")


def documented_servers() -> str:
    (block,) = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return str(block)


@asynccontextmanager
async def running_nginx(folder: Path, http: str, grpc: str) -> AsyncIterator[Nginx]:
    nginx = Nginx(folder, http, grpc)
    try:
        await nginx.start()
        yield nginx
    finally:
        await nginx.kill()
