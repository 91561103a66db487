"""Host services for the server alone; `ledger_client.runtime` has those that clients share.

keys            files of private keys
encrypted_keys  their form under a passphrase
ssh_agent       keys that another process holds
connections     limits of the connections of an HTTP server
tasks           waits with a limit, and tasks beside a block of code
limited_runner  a small application behind such connections
text_answer     its answers
listening       its sockets
tls             its certificate and key
hangup          SIGHUP
systemd         readiness, and sockets that systemd opened
request_head    what is refused in the head of a request
chunk_limits    limits on the chunks of a body
network_errors  why another host was not reached
half_made       what mends a folder whose making was interrupted
records         small JSON files of one record each
socket_folder   a folder for the sockets between processes
shared_counts   counts that the processes of one service share
fair_turns      turns of owners at a bounded number of places
loop_turns      turns of owners at the event loop, for work of milliseconds
bucket          what somebody may use at once, filled evenly over a period
whole_answer    answers that are whole before their first byte is written
operator_name   who runs this process
memory          freed memory goes back to the system; files in memory
log_lines       structlog on standard error
settings_table  flags, variables and help texts of settings
validation      what is wrong with a value of a file or a flag, in plain words
"""
