"""The HTTP edge: strict JSON in, typed values to the writer and the errands, prepared bytes out.

===============  ==================================================================================
``app``          the two applications (LAN, admin socket) and the one middleware
``connections``  how many, how long silent, and what speaks no HTTP
``edge``         what every handler leans on: ``Edge``, ``Route``, reading a body, writing an answer
``wire``         the shapes of requests and answers for applications
``leases``       checkout, heartbeat, checkin, products; ``lease_views``: what a client is told of its lease
``features``     what is done with a held seat: features, borrowing
``documents``    who this server is, and the vendor's keys
``admin``        what the administrator sees and does; ``admin_views`` and ``admin_wire``: as which values;
                 ``admin_hosting``: seats by file, named users, returns; ``admin_policy``: the site's rules;
                 ``admin_accounts``: users and keys; ``admin_session``: logging in; ``account_wire``: their shapes
``callers``      who administers over the network: ``roles`` is the table, ``sessions`` the logins and lock-outs,
                 ``credentials`` passwords and tokens, ``origin`` the address behind proxies
``auth``         bearer secrets, socket peers, the limit on failures
``status``       is it alive, is it ready, metrics; ``openapi`` describes the routes
``problems``     the one table code → HTTP status
===============  ==================================================================================
"""

from lls.api.app import init_admin_app, init_app, refuse
from lls.api.edge import Edge, EdgeSetting

__all__ = ["Edge", "EdgeSetting", "init_admin_app", "init_app", "refuse"]
