"""The server over HTTP: routes of sites and of people, and limits on what a process does at a time."""
