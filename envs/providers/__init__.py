"""Everything between the Protocols of envs.provider and the network: one small file per service.

serper, brave, tavily, serpapi, searxng find pages and image candidates; jina and fetch read pages;
`downloads` turns candidates into stored images; `chain` puts several into an order of fall-back.
What a service sent is read by a pydantic model of its reply; what the policy wrote travels only as
a JSON value or as an encoded query parameter.
"""
