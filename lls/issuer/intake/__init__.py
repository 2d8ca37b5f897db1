"""Purchase events over HTTP: shops, billing systems, CRM and ERP tell what was sold, and it becomes orders.

    body ─► signature ─► inbox (committed) ─► 200 ─► … ─► fact ─► course ─► order ─► entitlement
            signatures   inbox                            adapter  course   agreeing

| file | owns |
|---|---|
| ``server`` · ``answers`` | HTTP: sizes, times, one thread for the office · every answer, and the OpenAPI document |
| ``settings`` | the TOML: sources, secrets, SKUs |
| ``signatures`` · ``bodies`` | who sent it · bytes to values |
| ``inbox`` · ``subscriptions`` | events, stored first and processed once · whose subscriptions are which entitlements |
| ``facts`` · ``processing`` | what an event says, in nobody's words · what becomes of it |
| ``course`` · ``agreeing`` | what is true of a subscription, whatever came when · what that changes of what was sold |
| ``forgetting`` | what goes with a customer |
| ``generic`` ``stripe`` ``fastspring`` ``chargify`` ``zuora`` ``salesforce`` ``netsuite`` | a source's language each |
| ``reading`` · ``order_files`` | what several sources share |
"""
