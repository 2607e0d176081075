"""The page that people use the service with: a browser's GET / enters, files of `static/` leave. In the HTTP process.

The page itself runs in the browser, and uses the API that all programs have.
"""
