"""The way of a call to the server: encode, pass the middleware, gather what is sent together, enqueue.

`sender` is its entrance, `delivery` and `buffer` its last steps. Imports `results` and below.
"""
