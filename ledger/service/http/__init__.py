"""Requests and answers, whatever they are about. The modules in reading order:

server              from a connection to a handler
router              the route table, and the search for a request's route
parameters          parameters of paths and queries
body_reader         reads a body within limits
content_encoding    decodes a compressed one
request_body        splits a body into events
msgpack_body        the same for MessagePack
usage               log lines, counters and limits of use
responses           answers with a body, and the negotiation of their form
in_flight           bounds on the bytes and requests in flight
streaming_response  answers that are written while they are made
problems            problem documents, and the mapping from errors to them
openapi             the OpenAPI document, printed from the routes
"""
