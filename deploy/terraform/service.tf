locals {
  on_ecs        = var.service == null ? 0 : 1
  worker_memory = 1024 # MiB
  # The workers' user in the database, with IAM database authentication.
  by_iam = [for s in var.service[*] : s.database_user_arn if s.database_user_arn != null]

  # The image has no shell, so another writes the files and ends.
  files = [for s in var.service[*] : {
    name                   = "files"
    image                  = s.files_image
    essential              = false
    readonlyRootFilesystem = true
    command                = ["sh", "-ec", "printf %s \"$ROUTES\" > /files/outbox.yaml; printf %s \"$RDS_CA\" > /files/rds.pem"]
    environment            = [{ name = "ROUTES", value = local.routes }]
    secrets                = [{ name = "RDS_CA", valueFrom = s.ca_parameter }]
    mountPoints            = [{ sourceVolume = "files", containerPath = "/files", readOnly = false }]
  }]

  tasks_may_assume = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Action    = ["sts:AssumeRole"]
      Condition = local.same_account
    }]
  })

  # What the three tasks have in common.
  relay = [for s in var.service[*] : {
    essential              = true
    user                   = "65532:65532"
    readonlyRootFilesystem = true
    linuxParameters        = { capabilities = { drop = ["ALL"] } }
    dependsOn              = [{ containerName = "files", condition = "SUCCESS" }]
    mountPoints            = [{ sourceVolume = "files", containerPath = "/files", readOnly = true }]
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.this[0].name
        awslogs-region        = data.aws_region.this.region
        awslogs-stream-prefix = "relay"
      }
    }
  }]
  environment = [for s in var.service[*] : [
    { name = "AWS_REGION", value = data.aws_region.this.region },
    { name = "OUTBOX_DATABASE_AUTH", value = length(local.by_iam) > 0 ? "iam" : "password" },
    { name = "OUTBOX_TASK_QUEUE", value = s.task_queue },
    { name = "TEMPORAL_ADDRESS", value = s.temporal_address },
    { name = "TEMPORAL_NAMESPACE", value = s.temporal_namespace },
  ]]
  secrets = [for s in var.service[*] : concat(
    [{ name = "DATABASE_URL", valueFrom = s.database_url }],
    s.temporal_api_key == null ? [] : [{ name = "TEMPORAL_API_KEY", valueFrom = s.temporal_api_key }],
    s.temporal_tls == null ? [] : [
      { name = "TEMPORAL_TLS_CLIENT_CERT_DATA", valueFrom = "${s.temporal_tls}:cert::" },
      { name = "TEMPORAL_TLS_CLIENT_KEY_DATA", valueFrom = "${s.temporal_tls}:key::" },
    ],
    s.temporal_ca_parameter == null ? [] : [{ name = "TEMPORAL_TLS_SERVER_CA_CERT_DATA", valueFrom = s.temporal_ca_parameter }],
  )]

  tasks = merge([for s in var.service[*] : {
    worker = {
      name    = "worker"
      image   = s.image
      command = ["/usr/local/bin/worker"]
      # After SIGTERM a worker takes up to 30 s.
      stopTimeout = 40
      # The worker bounds its heap by the limit of its own container, not by that of the task.
      memory = local.worker_memory
      environment = concat(local.environment[0], [
        { name = "OUTBOX_BATCHES", value = s.batches },
        { name = "OUTBOX_CONFIG", value = "/files/outbox.yaml" },
        { name = "OUTBOX_HTTP_ADDRESS", value = ":8080" },
        { name = "OUTBOX_LOG_FORMAT", value = "json" },
        { name = "OUTBOX_PAYLOAD_BUDGET", value = s.payload_budget },
      ])
      secrets      = local.secrets[0]
      portMappings = [{ containerPort = 8080, hostPort = 8080, protocol = "tcp" }]
      # ECS replaces a task that is unhealthy, which helps nobody while the database is
      # away: so it takes five minutes.
      healthCheck = {
        command     = ["CMD", "/usr/local/bin/worker", "ready"]
        interval    = 30
        timeout     = 15
        retries     = 10
        startPeriod = 60
      }
    }
    migrate = {
      name         = "migrate"
      image        = s.migrate_image == null ? s.image : s.migrate_image
      command      = ["/usr/local/bin/starter", "migrate"]
      stopTimeout  = 30
      memory       = null
      environment  = []
      secrets      = [{ name = "DATABASE_URL", valueFrom = s.owner_url }]
      portMappings = []
      healthCheck  = null
    }
    starter = {
      name         = "starter"
      image        = s.image
      command      = ["/usr/local/bin/starter", "schedule"]
      stopTimeout  = 30
      memory       = null
      environment  = local.environment[0]
      secrets      = local.secrets[0]
      portMappings = []
      healthCheck  = null
    }
  }]...)
}

resource "aws_cloudwatch_log_group" "this" {
  count = local.on_ecs

  name_prefix       = "${var.prefix}-relay-"
  retention_in_days = var.service.log_days
}

# What ECS itself needs to start a task: image, log, secrets.
resource "aws_iam_role" "execution" {
  count = local.on_ecs

  name               = "${var.prefix}-relay-execution"
  assume_role_policy = local.tasks_may_assume
}

resource "aws_iam_role_policy_attachment" "execution" {
  count = local.on_ecs

  role       = aws_iam_role.execution[0].name
  policy_arn = "arn:${data.aws_partition.this.partition}:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
}

resource "aws_iam_role_policy" "secrets" {
  count = local.on_ecs

  name = "secrets"
  role = aws_iam_role.execution[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect = "Allow"
        Action = ["secretsmanager:GetSecretValue"]
        Resource = [for secret in [
          var.service.database_url, var.service.owner_url, var.service.temporal_api_key, var.service.temporal_tls,
        ] : secret if secret != null]
      },
      {
        Effect = "Allow"
        Action = ["ssm:GetParameters"]
        Resource = [for name in [var.service.ca_parameter, var.service.temporal_ca_parameter] :
          "arn:${data.aws_partition.this.partition}:ssm:${data.aws_region.this.region}:${data.aws_caller_identity.this.account_id}:parameter${name}" if name != null
        ]
      },
    ]
  })
}

# Only with IAM database authentication: the starter's role, and what both roles may.
resource "aws_iam_role" "starter" {
  count = length(local.by_iam)

  name               = "${var.prefix}-relay-starter"
  assume_role_policy = local.tasks_may_assume
}

resource "aws_iam_role_policy" "database" {
  for_each = length(local.by_iam) == 0 ? {} : { worker = aws_iam_role.worker[0].id, starter = aws_iam_role.starter[0].id }

  name = "database"
  role = each.value
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = ["rds-db:connect"]
      Resource = local.by_iam
    }]
  })
}

resource "aws_ecs_task_definition" "this" {
  for_each = local.tasks

  family                   = "${var.prefix}-relay-${each.key}"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = each.key == "worker" ? 512 : 256
  memory                   = each.key == "worker" ? local.worker_memory : 512
  task_role_arn            = each.key == "worker" ? aws_iam_role.worker[0].arn : each.key == "starter" ? one(aws_iam_role.starter[*].arn) : null
  execution_role_arn       = aws_iam_role.execution[0].arn
  container_definitions    = jsonencode([local.files[0], merge(local.relay[0], { for k, v in each.value : k => v if v != null })])

  volume {
    name = "files"
  }
}

resource "aws_ecs_service" "worker" {
  count = local.on_ecs

  name                               = "${var.prefix}-relay"
  cluster                            = var.service.cluster
  task_definition                    = aws_ecs_task_definition.this["worker"].arn
  desired_count                      = var.service.desired_count
  launch_type                        = "FARGATE"
  availability_zone_rebalancing      = "ENABLED"
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    assign_public_ip = false
    subnets          = var.service.subnets
    security_groups  = var.service.security_groups
  }
}
