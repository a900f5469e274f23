"""Open a page in WebKitGTK, run an async function's body in it, and print what it returns, as JSON.

It is run by the system's Python, which has the bindings: python3 webkit_page.py URL SCRIPT.
"""

import sys
from typing import Any

import gi  # type: ignore[import-not-found]

gi.require_version("Gtk", "3.0")
gi.require_version("WebKit2", "4.1")
from gi.repository import Gtk, WebKit2  # type: ignore[import-not-found]  # noqa: E402

url, script = sys.argv[1:]
view = WebKit2.WebView()


def finished(view: Any, result: Any) -> None:
    try:
        value = view.call_async_javascript_function_finish(result)
        print(value.to_string())
    except Exception as error:
        print(error, file=sys.stderr)
        sys.stdout.flush()
        sys.exit(1)
    Gtk.main_quit()


def loaded(view: Any, event: Any) -> None:
    if event == WebKit2.LoadEvent.FINISHED:
        body = f"return JSON.stringify(await (async () => {{{script}}})())"
        view.call_async_javascript_function(body, -1, None, None, None, None, finished)


view.connect("load-changed", loaded)
window = Gtk.Window()
window.add(view)
window.show_all()
view.load_uri(url)
Gtk.main()
