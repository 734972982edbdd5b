"""What people see of runs: the page that starts one, a session's page, the page of one question, the inbox."""
