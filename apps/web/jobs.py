"""Long work in processes of its own, which outlive a click, a refresh and the app.

    job = start(TrainOrder(...), owner=tab())      # its id goes into the address
    status = status_of(job.id)                     # from files: any tab may look
    cancel(job.id, owner=tab())                    # only the tab that ordered it may

A job is a folder `<runs>/.jobs/<id>/`: what was ordered (`job.json`), how it goes (`status.json`,
replaced atomically), what came out (`result.json`). Its process holds a lock on the folder as long
as it lives, so that a job whose process died is told from one that works.
"""
