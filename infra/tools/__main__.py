"""`python3 -m infra.tools` sets the project up."""

from infra.tools.setup import main

raise SystemExit(main())
