"""The pure core: values and decisions, without files, sockets, threads or clocks."""
