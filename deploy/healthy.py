"""End with 0 if a server answers the address with success: `python healthy.py http://127.0.0.1:5000/health`."""

import sys
import urllib.request

urllib.request.urlopen(sys.argv[1], timeout=8).close()
