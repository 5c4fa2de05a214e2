"""Any OpenAI-compatible server, started by the command line that the user gives."""
