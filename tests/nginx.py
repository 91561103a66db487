"""A configuration of nginx that runs in the foreground, with all its files in one folder."""

from pathlib import Path

PROGRAM = "/usr/sbin/nginx"

FRAME = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {servers}
}}
"""


def nginx_command(folder: Path, servers: str) -> list[str]:
    """Write the configuration of some `server` blocks; the command that serves them."""
    configuration = folder / "nginx.conf"
    configuration.write_text(FRAME.format(folder=folder, servers=servers))
    return [PROGRAM, "-e", f"{folder}/error.log", "-c", str(configuration)]
