"""Where executions run: in this process, in further processes of this machine, or on a Ray cluster."""
