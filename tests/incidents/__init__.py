"""A night of incidents on a real cluster, each judged by what an operator's screens say: the results are in docs/internals/incidents.md."""
