"""What each service answers, as JSON that its documentation shows.

In: hits and images with absolute addresses. Out: the reply's value.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from envs.provider import Page, SearchHit

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownImage:
    """An image as a service lists it."""

    url: str
    title: str
    page_url: str
    width: int
    height: int


def serper_pages(query: str, hits: Sequence[SearchHit]) -> Json:
    organic = [
        {"title": hit.title, "link": hit.url, "snippet": hit.snippet, "position": number}
        for number, hit in enumerate(hits, 1)
    ]
    asked = {"q": query, "gl": "us", "hl": "en", "type": "search", "engine": "google"}
    return {"searchParameters": asked, "organic": organic, "relatedSearches": [], "credits": 1}


def serper_images(query: str, images: Sequence[ShownImage]) -> Json:
    found = [
        {
            "title": image.title,
            "imageUrl": image.url,
            "imageWidth": image.width,
            "imageHeight": image.height,
            "thumbnailUrl": image.url,
            "source": "Fake web",
            "domain": _host(image.page_url),
            "link": image.page_url,
            "position": number,
        }
        for number, image in enumerate(images, 1)
    ]
    asked = {"q": query, "type": "images", "engine": "google"}
    return {"searchParameters": asked, "images": found, "credits": 1}


def brave_pages(query: str, hits: Sequence[SearchHit]) -> Json:
    results = [
        {"title": hit.title, "url": hit.url, "description": hit.snippet, "profile": {}}
        for hit in hits
    ]
    reply: Json = {"type": "search", "query": {"original": query}}
    return reply | ({"web": {"type": "search", "results": results}} if results else {})


def brave_images(query: str, images: Sequence[ShownImage]) -> Json:
    results = [
        {
            "type": "image_result",
            "title": image.title,
            "url": image.page_url,
            "source": _host(image.page_url),
            "thumbnail": {"src": image.url, "width": image.width, "height": image.height},
            "properties": {"url": image.url, "width": image.width, "height": image.height},
            "confidence": "high",
        }
        for image in images
    ]
    return {
        "type": "images",
        "query": {"original": query, "altered": None, "spellcheck_off": False},
        "results": results,
        "extra": {"might_be_offensive": False},
    }


def tavily(
    query: str, hits: Sequence[SearchHit], images: Sequence[ShownImage], *, described: bool
) -> Json:
    results = [
        {"title": hit.title, "url": hit.url, "content": hit.snippet, "score": 0.9} for hit in hits
    ]
    shown: list[Any] = [
        {"url": image.url, "description": image.title} if described else image.url
        for image in images
    ]
    return {
        "query": query,
        "answer": None,
        "images": shown,
        "results": results,
        "response_time": 0.1,
        "request_id": "fake",
        "follow_up_questions": None,
    }


def serpapi_pages(query: str, hits: Sequence[SearchHit]) -> Json:
    """Nothing found is an error text beside status "Success"."""
    results = [
        {"position": number, "title": hit.title, "link": hit.url, "snippet": hit.snippet}
        for number, hit in enumerate(hits, 1)
    ]
    return _serpapi(query, "google", {"organic_results": results} if results else {})


def serpapi_images(query: str, images: Sequence[ShownImage]) -> Json:
    results = [
        {
            "position": number,
            "thumbnail": image.url,
            "source": _host(image.page_url),
            "title": image.title,
            "link": image.page_url,
            "original": image.url,
            "original_width": image.width,
            "original_height": image.height,
            "is_product": False,
        }
        for number, image in enumerate(images, 1)
    ]
    return _serpapi(query, "google_images", {"images_results": results} if results else {})


def searxng(query: str, results: Sequence[Json], *, silent: Sequence[Sequence[str]]) -> Json:
    return {
        "query": query,
        "number_of_results": 0,
        "results": list(results),
        "answers": [],
        "corrections": [],
        "infoboxes": [],
        "suggestions": [],
        "unresponsive_engines": [list(engine) for engine in silent],
    }


def searxng_page(hit: SearchHit) -> Json:
    return {
        "url": hit.url,
        "title": hit.title,
        "content": hit.snippet,
        "engine": "fake",
        "engines": ["fake"],
        "parsed_url": [*urlsplit(hit.url), ""],
        "template": "default.html",
        "positions": [1],
        "score": 1.0,
        "category": "general",
    }


def searxng_image(image: ShownImage) -> Json:
    return {
        "url": image.page_url,
        "title": image.title,
        "content": "",
        "img_src": image.url,
        "thumbnail_src": image.url,
        "resolution": f"{image.width} x {image.height}",
        "img_format": "png",
        "source": _host(image.page_url),
        "engine": "fake images",
        "engines": ["fake images"],
        "template": "images.html",
        "positions": [1],
        "score": 1.0,
        "category": "images",
    }


def jina_json(page: Page) -> Json:
    data = {
        "title": page.title,
        "description": "",
        "url": page.url,
        "content": page.text,
        "usage": {"tokens": max(1, len(page.text) // 4)},
    }
    return {"code": 200, "status": 20000, "data": data}


def jina_text(page: Page) -> str:
    return f"Title: {page.title}\n\nURL Source: {page.url}\n\nMarkdown Content:\n{page.text}"


ERROR_BODIES: dict[str, Json] = {
    "serper": {"message": "Not enough credits", "statusCode": 400},
    "brave": {"type": "ErrorResponse", "error": {"code": "QUOTA", "detail": "Not enough credits"}},
    "tavily": {"detail": {"error": "Not enough credits"}},
    "serpapi": {"error": "Your account has run out of searches. Not enough credits"},
    "searxng": {"error": "Not enough credits"},
    "jina": {"code": 402, "status": 40203, "message": "Not enough credits", "data": None},
}
"""How each says with status 200 that it will not answer."""


def with_null_lists(value: Any) -> Any:
    """The same reply with null in the place of every list."""
    match value:
        case dict():
            return {key: with_null_lists(inner) for key, inner in value.items()}
        case list():
            return None
        case _:
            return value


def _serpapi(query: str, engine: str, results: Json) -> Json:
    reply: Json = {
        "search_metadata": {"id": "fake", "status": "Success"},
        "search_parameters": {"engine": engine, "q": query},
        "search_information": {"query_displayed": query},
    }
    nothing = {"error": "Google hasn't returned any results for this query."}
    return reply | (results or nothing)


def _host(url: str) -> str:
    return urlsplit(url).netloc
