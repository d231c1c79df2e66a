"""Long work of the app, one kind a file: what a job (`apps.web.jobs`) may be asked to do."""
