"""The offline door: a file of requests in, a file of answers out, over as many processes as there are devices."""
