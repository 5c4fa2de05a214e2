"""What comes back: objects that show themselves in a notebook and in a terminal.

Each has `_repr_html_` and a text that stands alone, `to_dict()` for JSON, and most a `.df`. Everything in
HTML is escaped. No colours are set except small state marks that read on light and dark.

    shape.py     Rich, tables and facts in HTML and text
    listing.py   Status, Listing, SettingsView
    endpoint.py  EndpointView
    story.py     WhyView, LogView, Deleted
    events.py    EventListing
    keys.py      NewKey, KeyListing, RevokedKey
    answer.py    Answer, what a model said
"""
