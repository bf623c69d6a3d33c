"""Creates the topology of the local stack inside LocalStack's container.

LocalStack runs this file once its services answer, in its own interpreter. It
reads the same topology.json as the Go package localstack/topology, and must end
in the same state: a test starts LocalStack with this hook, applies the topology
from Go on top, and expects that to change nothing.

Environment: TOPOLOGY_FILE, AWS_ENDPOINT_URL, AWS_REGION; the defaults are those of
docker-compose.yml. An exception marks the hook as failed, which
docker-compose.yml's health check sees.
"""

import json
import os

import boto3

path = os.environ.get("TOPOLOGY_FILE", "/etc/outbox/topology.json")
client = dict(
    endpoint_url=os.environ.get("AWS_ENDPOINT_URL", "http://127.0.0.1:4566"),
    region_name=os.environ.get("AWS_REGION", "us-east-1"),
    aws_access_key_id="test",
    aws_secret_access_key="test",
)
sns = boto3.client("sns", **client)
sqs = boto3.client("sqs", **client)

with open(path, encoding="utf-8") as file:
    topology = json.load(file)


def fifo(name):
    return name.endswith(".fifo")


topic_arns = {}
for topic in topology["topics"]:
    attributes = dict(topic.get("attributes", {}))
    if fifo(topic["name"]):
        attributes["FifoTopic"] = "true"
    topic_arns[topic["name"]] = sns.create_topic(Name=topic["name"], Attributes=attributes)["TopicArn"]

queue_urls, queue_arns = {}, {}
for queue in topology["queues"]:
    name = queue["name"]
    attributes = dict(queue.get("attributes", {}))
    if fifo(name):
        attributes["FifoQueue"] = "true"
    queue_urls[name] = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    answer = sqs.get_queue_attributes(QueueUrl=queue_urls[name], AttributeNames=["QueueArn"])
    queue_arns[name] = answer["Attributes"]["QueueArn"]

for queue in topology["queues"]:
    name, attributes = queue["name"], {}
    if "deadLetters" in queue:
        attributes["RedrivePolicy"] = json.dumps(
            {
                "deadLetterTargetArn": queue_arns[queue["deadLetters"]["queue"]],
                "maxReceiveCount": queue["deadLetters"]["maxReceives"],
            }
        )
    sources = [topic_arns[s["topic"]] for s in topology["subscriptions"] if s["queue"] == name]
    if sources:
        attributes["Policy"] = json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Effect": "Allow",
                        "Principal": {"Service": "sns.amazonaws.com"},
                        "Action": "sqs:SendMessage",
                        "Resource": queue_arns[name],
                        "Condition": {"ArnEquals": {"aws:SourceArn": sources}},
                    }
                ],
            }
        )
    if attributes:
        sqs.set_queue_attributes(QueueUrl=queue_urls[name], Attributes=attributes)

for subscription in topology["subscriptions"]:
    attributes = {"RawMessageDelivery": "true" if subscription.get("raw") else "false"}
    if "filter" in subscription:
        attributes["FilterPolicy"] = json.dumps(subscription["filter"])
    sns.subscribe(
        TopicArn=topic_arns[subscription["topic"]],
        Protocol="sqs",
        Endpoint=queue_arns[subscription["queue"]],
        Attributes=attributes,
    )

print(f"topology: {len(topic_arns)} topics, {len(queue_arns)} queues, {len(topology['subscriptions'])} subscriptions")
